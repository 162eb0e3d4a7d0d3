element.addEventListener('click', event => {
    const button = event.target.closest('[data-do]'), run = event.target.closest('[data-run]');
    if (button) trigger('click', {act: button.dataset.do, id: +button.closest('[data-id]').dataset.id});
    else if (run) trigger('select', {run: run.dataset.run});
});
