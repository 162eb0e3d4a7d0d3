{
    // Stands before gradio, whose requests it sees fail. While the server does not answer, a banner says so, buttons do nothing and
    // the page asks again every two seconds. Events that were sent meanwhile wait and follow in their order: gradio 6.31 would give
    // up at the first one that fails, and load the page anew, without what was typed in it.
    const ask = window.fetch.bind(window);
    let gone = false, leaving = false, waiting = 0, turn = Promise.resolve(), returned = [];
    const show = () => {
        const banner = document.querySelector('#server-gone');
        document.documentElement.toggleAttribute('data-server-gone', gone);
        if (banner) banner.hidden = !gone;
        for (const button of document.querySelectorAll('button')) gone ? button.setAttribute('aria-disabled', 'true') : button.removeAttribute('aria-disabled');
    };
    const again = async () => {
        try {
            await ask('gradio_api/app_id', {cache: 'no-store'});
        } catch {
            return setTimeout(again, 2000);
        }
        gone = false;
        show();
        for (const go of returned.splice(0)) go();
        window.dispatchEvent(new Event('studio-back'));
    };
    const lost = () => {
        if (gone || leaving) return;
        gone = true;
        show();
        setTimeout(again, 1000);
    };
    const back = () => gone ? new Promise(go => returned.push(go)) : Promise.resolve();
    const inTurn = async given => {
        const before = turn;
        let done;
        turn = new Promise(next => { done = next; });
        waiting += 1;
        try {
            await before;
            for (;;) {
                await back();
                try {
                    return await ask(...given);
                } catch (error) {
                    if (error.name === 'AbortError' || leaving) throw error;
                    lost();
                }
            }
        } finally {
            waiting -= 1;
            done();
        }
    };
    window.fetch = async (...given) => {
        const event = String(given[0] && given[0].url || given[0]).includes('/queue/join');
        if (event && (gone || waiting)) return inTurn(given);
        try {
            return await ask(...given);
        } catch (error) {
            if (error.name === 'AbortError' || leaving) throw error;
            lost();
            if (event) return inTurn(given);
            throw error;
        }
    };
    window.addEventListener('pagehide', () => { leaving = true; });
    window.addEventListener('beforeunload', () => { leaving = true; setTimeout(() => { leaving = false; }, 3000); });
    const harmless = '[role=tab], #theme, #tour-again, #tour button, .label-wrap, dialog button';
    const hold = event => {
        const does = gone && event.target.closest && event.target.closest('button, input[type=file], [role=slider], [role=option]');
        if (!does || does.matches(harmless)) return;
        event.preventDefault();
        event.stopImmediatePropagation();
    };
    for (const kind of ['click', 'pointerdown', 'drop']) document.addEventListener(kind, hold, true);
}
