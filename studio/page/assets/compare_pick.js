element.addEventListener('click', event => {
    const comparison = event.target.closest('[data-at]');
    if (comparison) trigger('select', {at: comparison.dataset.at});
});
