element.addEventListener('click', event => {
    const tag = event.target.closest('[data-tag]');
    if (tag) trigger('select', {tag: tag.dataset.tag});
});
