// One picture is opened with a click, several are chosen with their boxes for one act. What is chosen
// outlives an answer that draws the pictures anew, but not another dataset or a filter that hides it.
let chosen = new Set(), dataset = '', last = '';
const gallery = () => element.querySelector('.gallery');
const all = () => gallery() ? JSON.parse(gallery().dataset.all) : [];
const show = () => {
    const actions = element.querySelector('.selecting .actions'), whole = element.querySelector('[data-choose=all]');
    for (const box of element.querySelectorAll('.choose')) box.checked = chosen.has(box.value);
    if (!actions) return;
    const count = all().length;
    actions.hidden = !chosen.size;
    whole.checked = chosen.size === count;
    whole.indeterminate = chosen.size > 0 && chosen.size < count;
    whole.nextElementSibling.textContent = chosen.size ? `${chosen.size} selected` : count === 1 ? 'Select the picture' : `Select all ${count}`;
};
const choose = names => {
    const before = [...chosen].join();
    chosen = new Set(names);
    show();
    if ([...chosen].join() !== before) trigger('input', {on: [...chosen]});
};
element.addEventListener('click', event => {
    const picture = event.target.closest('[data-at]'), page = event.target.closest('[data-page]');
    const act = event.target.closest('[data-act]'), box = event.target.closest('.choose');
    if (picture) trigger('select', {at: picture.dataset.at});
    if (page) trigger('select', {at: page.dataset.page});
    if (event.target.closest('[data-choose=none]')) choose([]);
    if (event.target.closest('[data-choose=all]')) choose(event.target.checked ? all() : []);
    if (act && act.dataset.act === 'edit') {
        const bulk = document.querySelector('#bulk'), head = bulk.querySelector('.label-wrap');
        if (!head.classList.contains('open')) head.click();
        bulk.scrollIntoView({block: 'center'});
    } else if (act) trigger('click', {act: act.dataset.act, on: [...chosen]});
    if (!box) return;
    const names = all(), ends = [names.indexOf(last), names.indexOf(box.value)].sort((one, other) => one - other);
    const these = event.shiftKey && ends[0] >= 0 ? names.slice(ends[0], ends[1] + 1) : [box.value];
    choose(box.checked ? [...chosen, ...these] : [...chosen].filter(name => !these.includes(name)));
    last = box.value;
});
watch('value', () => {
    const now = gallery() ? gallery().dataset.dataset : '', names = new Set(all());
    choose(now === dataset ? [...chosen].filter(name => names.has(name)) : []);
    dataset = now;
    window.studio && window.studio.mark();
});
dataset = gallery() ? gallery().dataset.dataset : '';
