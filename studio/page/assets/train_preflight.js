element.addEventListener('click', event => {
    const button = event.target.closest('[data-act], [data-press]');
    if (!button) return;
    if (button.dataset.act) { button.disabled = true; trigger('click', {act: button.dataset.act}); return; }
    const other = document.getElementById(button.dataset.press);
    if (other) (other.matches('button') ? other : other.querySelector('button')).click();
});
