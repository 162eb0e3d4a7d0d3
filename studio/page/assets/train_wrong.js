// The fields that a complaint names are marked until the next Start; folded parts are opened for the first of them.
const soon = () => new Promise(done => setTimeout(done, 250));  // what is unfolded is laid out by then
const seen = field => { const block = document.getElementById(field); return block && block.offsetParent; };
const unfolded = async field => {
    for (const part of ['#everything', '#section-' + field.split('-')[0]]) {
        const head = document.querySelector(part + ' > button.label-wrap');
        if (seen(field) || !head || head.classList.contains('open')) continue;
        head.click();
        await soon();
    }
};
const mark = (field, wrong) => {
    const block = document.getElementById(field);
    if (!block) return;
    block.classList.toggle('wrong-field', wrong);
    for (const input of block.querySelectorAll('input, textarea')) wrong ? input.setAttribute('aria-invalid', 'true') : input.removeAttribute('aria-invalid');
};
const show = async () => {
    for (const block of document.querySelectorAll('.wrong-field')) mark(block.id, false);
    const fields = [...element.querySelectorAll('[data-fields]')].flatMap(line => line.dataset.fields.split(' ').filter(Boolean));
    for (const field of fields) if (!seen(field)) await unfolded(field);
    for (const field of fields) mark(field, true);
};
watch('value', show);
show();
