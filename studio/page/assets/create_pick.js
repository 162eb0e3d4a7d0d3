element.addEventListener('click', event => {
    const image = event.target.closest('[data-at]');
    if (image) trigger('select', {at: image.dataset.at});
});
