() => {
    // Keys that walk through the pictures, the mark on the chosen one, light and dark. Everything else is gradio's.
    const mark = () => {
        const desk = document.querySelector('#picture .desk');
        for (const thumb of document.querySelectorAll('#pictures .thumb')) {
            const chosen = desk && thumb.dataset.at === desk.dataset.current;
            if (chosen && !thumb.hasAttribute('aria-current')) {
                const sheet = thumb.parentElement, above = thumb.offsetTop - sheet.offsetTop;
                if (above < sheet.scrollTop || above + thumb.offsetHeight > sheet.scrollTop + sheet.clientHeight) sheet.scrollTop = above - 40;
            }
            chosen ? thumb.setAttribute('aria-current', 'true') : thumb.removeAttribute('aria-current');
        }
    };
    window.studio = {mark};
    mark();

    document.addEventListener('keydown', event => {
        const next = document.querySelector('#next-picture'), previous = document.querySelector('#previous-picture');
        if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || !next || !next.offsetParent) return;
        const elsewhere = event.target.closest('input, textarea, select, [contenteditable], [role=slider], [role=tab], [role=listbox], dialog');
        const inCaption = event.target.closest('#caption');
        const by = {PageDown: next, PageUp: previous}[event.key] || (!elsewhere && {ArrowRight: next, ArrowLeft: previous}[event.key]);
        if (!by || (elsewhere && !inCaption)) return;
        event.preventDefault();
        by.click();
    });

    const dark = wanted => document.body.classList.toggle('dark', wanted);
    const named = () => {
        const button = document.querySelector('#theme');
        if (button) button.textContent = document.body.classList.contains('dark') ? 'Light' : 'Dark';
    };
    const kept = localStorage.getItem('style-studio-theme');
    if (kept) dark(kept === 'dark');
    named();
    document.addEventListener('click', event => {
        if (!event.target.closest('#theme')) return;
        dark(!document.body.classList.contains('dark'));
        localStorage.setItem('style-studio-theme', document.body.classList.contains('dark') ? 'dark' : 'light');
        named();
    });
}
