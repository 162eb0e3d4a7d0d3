const dialog = () => element.querySelector('dialog');
let row = [], at = 0;
const show = () => {
    const picture = row[at];
    dialog().querySelector('img').src = picture.dataset.large;
    dialog().querySelector('.what').textContent = picture.dataset.what;
};
element.addEventListener('click', event => {
    const picture = event.target.closest('[data-large]');
    if (picture) {
        row = [...picture.closest('tr').querySelectorAll('[data-large]')]; at = row.indexOf(picture); show(); dialog().showModal();
    } else if (event.target.closest('[data-close]') || event.target === dialog()) dialog().close();
});
element.addEventListener('keydown', event => {
    const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!by || !dialog() || !dialog().open) return;
    event.preventDefault(); event.stopPropagation();
    at = (at + by + row.length) % row.length; show();
});
watch('value', () => { const scroll = element.querySelector('.scroll'); if (scroll) scroll.scrollLeft = scroll.scrollWidth; });
