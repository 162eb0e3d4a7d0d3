element.addEventListener('click', event => {
    const button = event.target.closest('[data-fix]');
    const picture = event.target.closest('[data-at]');
    if (button) trigger('click', {fix: button.dataset.fix, kind: button.dataset.kind, on: button.dataset.on ? JSON.parse(button.dataset.on) : null});
    else if (picture) trigger('select', {at: picture.dataset.at});
});
