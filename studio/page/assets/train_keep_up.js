table => (preset, length, strength, base, ...now) => {
    const of = table[preset] && table[preset][length] && table[preset][length][strength];
    if (!of) return now;
    const [here, there] = base.trim() === 'mini' ? of : [of[1], of[0]];
    return now.map((value, i) => JSON.stringify(value) === JSON.stringify(there[i]) ? here[i] : value);
}
