(suggested, base, prompts, guidance, taken) => {
    const of = JSON.parse(suggested), before = JSON.parse(taken);
    const words = of.prompts && (!(prompts ?? "").trim() || prompts === before.prompts);
    const number = guidance === before.guidance;
    return [
        base === of.for ? of.base : base,
        words ? of.prompts : prompts,
        number ? of.guidance : guidance,
        JSON.stringify({prompts: words ? of.prompts : before.prompts, guidance: number ? of.guidance : before.guidance}),
    ];
}
