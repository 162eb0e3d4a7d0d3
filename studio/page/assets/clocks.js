{
    const frame = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = drawn => /performance\.now\(\)-/.test(drawn) ? setTimeout(() => frame(drawn), 250) : frame(drawn);
}
