{
    // Stands before gradio, whose requests it sees fail. While the server does not answer, a banner says so, buttons do nothing and
    // the page asks again every two seconds; "studio-back" is sent when it answers.
    const ask = window.fetch.bind(window);
    let gone = false, leaving = false;
    const banner = () => document.querySelector('#server-gone');
    const show = () => {
        document.documentElement.toggleAttribute('data-server-gone', gone);
        if (banner()) banner().hidden = !gone;
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
        window.dispatchEvent(new Event('studio-back'));
    };
    const lost = () => {
        if (gone || leaving) return;
        gone = true;
        show();
        setTimeout(again, 1000);
    };
    window.fetch = async (...given) => {
        try {
            return await ask(...given);
        } catch (error) {
            if (error.name !== 'AbortError') setTimeout(lost);  // a page that is being left cuts its requests off
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
