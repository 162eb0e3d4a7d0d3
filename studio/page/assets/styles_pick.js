element.addEventListener('click', event => {
    const style = event.target.closest('[data-at]');
    if (style) trigger('select', {at: style.dataset.at});
});
