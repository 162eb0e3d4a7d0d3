element.addEventListener('click', event => {
    const picture = event.target.closest('[data-at]');
    if (picture) trigger('select', {at: picture.dataset.at});
});
watch('value', () => window.studio && window.studio.mark());
