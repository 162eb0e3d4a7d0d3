element.addEventListener('click', event => {
    const button = event.target.closest('[data-act]');
    if (button) trigger('click', {act: button.dataset.act, model: button.closest('[data-model]').dataset.model});
});
