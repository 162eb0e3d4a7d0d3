element.addEventListener('click', event => {
    const style = event.target.closest('[data-at]'), tag = event.target.closest('[data-tag]');
    if (style) trigger('select', {at: style.dataset.at});
    if (tag) trigger('click', {tag: tag.getAttribute('aria-pressed') === 'true' ? '' : tag.dataset.tag});
});
