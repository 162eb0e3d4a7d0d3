() => {
    // Keys that walk through the pictures, the mark on the chosen one, light and dark. Everything else is gradio's.
    const mark = () => {
        const desk = document.querySelector('#picture .desk'), thumbs = [...document.querySelectorAll('#pictures .thumb')];
        const held = thumbs.includes(document.activeElement), current = thumbs.find(thumb => desk && thumb.dataset.at === desk.dataset.current);
        for (const thumb of thumbs) {
            const chosen = thumb === current;
            thumb.tabIndex = thumb === (current || thumbs[0]) ? 0 : -1;  // one stop for the Tab key, however many pictures
            if (chosen && held) thumb.focus({preventScroll: true});
            if (chosen && !thumb.hasAttribute('aria-current')) {
                const sheet = thumb.closest('.thumbs'), above = thumb.parentElement.offsetTop - sheet.offsetTop;
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
        const thumb = event.target.closest('#pictures .thumb'), rows = {ArrowDown: 1, ArrowUp: -1}[event.key];
        if (thumb && rows) {
            const all = [...thumb.closest('.thumbs').querySelectorAll('.thumb')], top = all[0].parentElement.offsetTop;
            const wide = all.filter(other => other.parentElement.offsetTop === top).length;
            const other = all[all.indexOf(thumb) + rows * wide];
            event.preventDefault();
            if (other) other.click();
            return;
        }
        const by = {PageDown: next, PageUp: previous}[event.key] || (!elsewhere && {ArrowRight: next, ArrowLeft: previous}[event.key]);
        if (!by || (elsewhere && !inCaption)) return;
        event.preventDefault();
        by.click();
    });

    // A folder that is dropped among the pictures: what is taken is sent as if it had been chosen file by file, with a file that
    // tells where each lay, and the names of those that are not taken. A file that cannot be read does not stop the others.
    const taken = /\.(png|jpe?g|jpe|jfif|webp|avif|bmp|gif|tiff?|hei[cf]|hif|txt|caption|jsonl|csv|zip)$/i;
    const clutter = /(^|\/)(\.[^/]+|__MACOSX|thumbs\.db|ehthumbs\.db|desktop\.ini)(\/|$)/i;
    const within = async (entry, found) => {
        const path = entry.fullPath.replace(/^\//, '');
        if (clutter.test(path)) return;
        try {
            if (entry.isFile) {
                if (!taken.test(path)) found.left.push(path);
                else found.files.push([path, await new Promise((good, bad) => entry.file(good, bad))]);
                return;
            }
            const reader = entry.createReader();
            for (;;) {
                const some = await new Promise((good, bad) => reader.readEntries(good, bad));  // a hundred at a time
                if (!some.length) return;
                for (const inner of some) await within(inner, found);
            }
        } catch {
            found.left.push(path);
        }
    };
    const field = () => document.querySelector('#upload input[type=file]');
    const said = text => {
        const report = document.querySelector('#upload-report .html-container > div');
        if (report) report.replaceChildren(Object.assign(document.createElement('p'), {textContent: text}));
    };
    document.addEventListener('drop', async event => {
        const entries = event.target.closest('#upload') ? [...event.dataTransfer.items].map(item => item.webkitGetAsEntry()).filter(Boolean) : [];
        if (!entries.some(entry => entry.isDirectory)) return;
        event.preventDefault();
        event.stopPropagation();
        event.target.dispatchEvent(new DragEvent('dragleave', {bubbles: true}));
        const found = {files: [], left: []}, chosen = new DataTransfer();
        for (const entry of entries) await within(entry, found);
        if (!found.files.length && !found.left.length) return said('That folder is empty.');
        const folders = {files: found.files.map(([path]) => path), left: found.left.slice(0, 5000)};
        for (const [, file] of found.files) chosen.items.add(file);
        chosen.items.add(new File([JSON.stringify(folders)], 'style-studio-folders.json', {type: 'application/json'}));
        // Looked for only now: an answer of the server may have put another one in its place meanwhile
        const input = field();
        if (!input) return said('Another upload is still running. Drop the folder again when it is done.');
        input.files = chosen.files;
        input.dispatchEvent(new Event('change', {bubbles: true}));
    }, true);

    // How a training stands, in the window's title; a word when it ends and nobody looks, if somebody asked for it.
    // A page that has stopped asking, because nobody sees it, does not know and says nothing.
    const going = ['starting', 'running', 'stopping'];
    let before = {};
    const entitle = () => {
        const head = document.querySelector('#status .run-status[data-state]');
        const now = head ? {...head.dataset} : {};
        const rests = document.querySelector('#follows-training [data-rests=true]');
        const title = going.includes(now.state) && !rests ? `${now.share} % · ${now.run} · Style Studio` : 'Style Studio';
        if (document.title !== title) document.title = title;
        const ended = now.run && now.run === before.run && going.includes(before.state) && !going.includes(now.state);
        if (ended && document.hidden && 'Notification' in window && Notification.permission === 'granted') new Notification(now.run, {body: now.words, tag: now.run});
        before = now;
        bell();
    };
    const bell = () => {
        const button = document.querySelector('#tell-me');
        if (!button) return;
        const can = 'Notification' in window;
        const state = can ? Notification.permission : 'denied';
        button.hidden = !can || !going.includes(before.state);
        button.disabled = state !== 'default';
        const words = {granted: 'You will be notified', denied: 'Notifications are blocked in this browser'}[state] || 'Notify me when it is done';
        if (button.textContent !== words) button.textContent = words;
    };
    window.studio.entitle = entitle;
    entitle();
    // What a remark offers: the tab, or the field, where it is put right
    document.addEventListener('click', event => {
        const button = event.target.closest('[data-open]');
        if (!button) return;
        const field = document.querySelector(`#${CSS.escape(button.dataset.open)}`);
        const input = field && field.querySelector('input, textarea');
        const tab = [...document.querySelectorAll('[role=tab]')].find(tab => tab.textContent.includes(button.dataset.open));
        if (input) { input.focus(); input.scrollIntoView({block: 'center'}); } else if (tab) tab.click();
    });
    document.addEventListener('click', event => {
        if (event.target.closest('#tell-me') && 'Notification' in window) Notification.requestPermission().then(bell);
    });

    // Three steps for who has never been here; said once in a browser, and again when asked for.
    const steps = [
        ['Dataset', '1 of 3 · Drop 15 to 50 pictures in your style and caption what each one shows. An example dataset is here to try.'],
        ['Train', '2 of 3 · Choose a dataset and a trigger word, and start. You can close this page: training continues.'],
        ['Create', '3 of 3 · Generate images in your style, from a prompt or your own sketch. Find the style file for other apps in Styles.'],
    ];
    let step = 0;
    const tour = number => {
        const card = document.querySelector('#tour');
        if (!card) return;
        card.hidden = number === null;
        if (number === null) return localStorage.setItem('style-studio-tour', 'seen');
        step = number;
        card.querySelector('p').textContent = steps[step][1];
        card.querySelector('[data-tour=on]').textContent = step < steps.length - 1 ? `Next: ${steps[step + 1][0]}` : 'Done';
        const tab = [...document.querySelectorAll('[role=tab]')].find(tab => tab.textContent.includes(steps[step][0]));
        if (tab && tab.getAttribute('aria-selected') !== 'true') tab.click();
    };
    if (!localStorage.getItem('style-studio-tour')) tour(0);
    document.addEventListener('click', event => {
        const asked = event.target.closest('[data-tour], #tour-again');
        if (asked) tour(asked.id ? 0 : asked.dataset.tour === 'on' && step < steps.length - 1 ? step + 1 : null);
    });

    // Every place has an address of its own: a reload and a link come back to it. Arrow keys go from place to place.
    const places = () => [...document.querySelectorAll('#places > .tab-wrapper [role=tab]')];
    const name = tab => tab.textContent.trim().toLowerCase();
    const go = () => {
        const wanted = places().find(tab => name(tab) === location.hash.slice(1)) || (location.hash ? null : places()[0]);
        if (wanted && wanted.getAttribute('aria-selected') !== 'true') wanted.click();
    };
    const told = () => {
        const current = places().find(tab => tab.getAttribute('aria-selected') === 'true');
        if (current && location.hash.slice(1) !== name(current)) history.pushState(null, '', '#' + name(current));
    };
    if (localStorage.getItem('style-studio-tour')) go();
    window.addEventListener('hashchange', go);
    window.addEventListener('popstate', go);
    const list = document.querySelector('#places > .tab-wrapper');
    if (list) new MutationObserver(told).observe(list, {subtree: true, attributes: true, attributeFilter: ['aria-selected']});
    document.addEventListener('keydown', event => {
        const tab = event.target.closest('#places > .tab-wrapper [role=tab]');
        const by = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1}[event.key];
        if (!tab || !by) return;
        const all = places(), next = all[(all.indexOf(tab) + by + all.length) % all.length];
        event.preventDefault();
        next.click();
        next.focus();
    });

    // Reports are pages of their own, which cannot know what was chosen here.
    const lighten = () => {
        const wanted = `color-scheme: ${document.body.classList.contains('dark') ? 'dark' : 'light'};`;
        for (const report of document.querySelectorAll('#report iframe, #style-report iframe')) {
            const page = report.srcdoc.replace(/color-scheme: [a-z ]+;/, wanted);
            if (page !== report.srcdoc) report.srcdoc = page;
        }
    };
    window.studio.lighten = lighten;
    const dark = wanted => { document.body.classList.toggle('dark', wanted); lighten(); };
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
