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

    // How a training stands, in the window's title; a word when it ends and nobody looks, if that was wished for.
    const going = ['starting', 'running', 'stopping'];
    let before = {};
    setInterval(() => {
        const head = document.querySelector('#status .run-status[data-state]');
        const now = head ? {...head.dataset} : {};
        const title = going.includes(now.state) ? `${now.share} % · ${now.run} · Style Studio` : 'Style Studio';
        if (document.title !== title) document.title = title;
        const ended = now.run && now.run === before.run && going.includes(before.state) && !going.includes(now.state);
        if (ended && document.hidden && 'Notification' in window && Notification.permission === 'granted') new Notification(now.run, {body: now.told});
        before = now;
        bell();
    }, 1000);
    const bell = () => {
        const button = document.querySelector('#tell-me');
        if (!button) return;
        const can = 'Notification' in window;
        const state = can ? Notification.permission : 'denied';
        button.hidden = !can;
        button.textContent = {granted: 'You will be told when it is done', denied: 'This browser may not tell you when it is done'}[state] || 'Tell me when it is done';
        button.disabled = state !== 'default';
    };
    document.addEventListener('click', event => {
        if (event.target.closest('#tell-me') && 'Notification' in window) Notification.requestPermission().then(bell);
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
