const $ = selector => element.querySelector(selector), $$ = (root, selector) => [...root.querySelectorAll(selector)];
const rows = () => $$(element, '.comparison tbody tr');
const large = () => $('dialog.large');
let at = null, zoom = 1, flipped = false;
const show = () => {
    const cells = $$(rows()[at[0]], 'td'), cell = cells[flipped ? first(cells) : at[1]], picture = cell.querySelector('img');
    const blind = $('.comparison').classList.contains('blind');
    const shown = large().querySelector('img');
    shown.src = picture.src; shown.alt = picture.alt;
    shown.style.setProperty('--zoom', zoom);
    large().querySelector('.what').textContent = blind ? 'Which is it?' : cell.dataset.title + ': ' + rows()[at[0]].dataset.title;
};
const first = cells => cells.findIndex(cell => cell.dataset.column === '0');
const move = (down, across) => {
    const all = rows(), wide = $$(all[0], 'td').length;
    do at = [(at[0] + down + all.length) % all.length, (at[1] + across + wide) % wide];
    while (across && !$$(all[at[0]], 'td')[at[1]].offsetParent);  // the base, while it is left out of a blind look
    flipped = false; show();
};
const scale = by => { zoom = Math.min(8, Math.max(1, zoom * by)); show(); };
const flip = on => { flipped = on && !$('.comparison').classList.contains('blind'); show(); };
element.addEventListener('click', event => {
    const cell = event.target.closest('.comparison td .open'), act = event.target.closest('[data-act]');
    if (cell) {
        at = [rows().indexOf(cell.closest('tr')), $$(cell.closest('tr'), 'td').indexOf(cell.closest('td'))];
        zoom = 1; flipped = false; show(); large().showModal();
    } else if (act) acts[act.dataset.act](act);
    else if (event.target === large()) large().close();
});
element.addEventListener('keydown', event => {
    if (!large() || !large().open) return;
    const does = {ArrowRight: () => move(0, 1), ArrowLeft: () => move(0, -1), ArrowDown: () => move(1, 0), ArrowUp: () => move(-1, 0),
        '+': () => scale(1.5), '=': () => scale(1.5), '-': () => scale(1 / 1.5), ' ': () => flip(!flipped)}[event.key];
    if (!does) return;
    event.preventDefault(); event.stopPropagation(); does();
});
const acts = {
    close: () => large().close(), larger: () => scale(1.5), smaller: () => scale(1 / 1.5), flip: () => flip(!flipped),
    blind: () => {
        const several = $$(rows()[0], 'td').length > 2;  // of styles: the base would be known at once
        $('.comparison').classList.add('blind');
        $('.comparison').classList.toggle('without-base', several);
        for (const row of rows()) {
            const cells = $$(row, 'td');
            for (let i = cells.length - 1; i > 0; i--) {
                const j = Math.floor(Math.random() * (i + 1));
                [cells[i], cells[j]] = [cells[j], cells[i]];
            }
            for (const cell of cells) {
                row.append(cell);
                cell.removeAttribute('data-picked');
                cell.querySelector('.pick').setAttribute('aria-pressed', 'false');
            }
            cells.filter(cell => !several || cell.dataset.column !== '0').forEach((cell, i) => {
                cell.querySelector('.pick').textContent = `${String.fromCharCode(65 + i)} is better`;
                cell.querySelector('img').alt = `${String.fromCharCode(65 + i)}: ${row.dataset.title}`;
            });
        }
        $('.verdict').textContent = 'Choose the better image in each row, then reveal.';
    },
    pick: button => {
        for (const cell of $$(button.closest('tr'), 'td')) {
            const picked = cell.contains(button);
            cell.toggleAttribute('data-picked', picked);
            cell.querySelector('.pick').setAttribute('aria-pressed', picked);
        }
    },
    reveal: () => trigger('submit', {of: $('.comparison').dataset.of, picks: rows().map(row => {
        const picked = row.querySelector('td[data-picked]');
        return picked ? Number(picked.dataset.column) : null;
    })}),
};
// How large the pictures of the grid are, kept in this browser
const sized = px => { element.style.setProperty('--cell', px + 'px'); const slider = $('[data-density]'); if (slider) slider.value = px; };
const size = () => { const kept = Number(localStorage.getItem('style-studio-cell')); if (kept >= 120 && kept <= 480) sized(kept); };
element.addEventListener('input', event => {
    if (!event.target.matches('[data-density]')) return;
    localStorage.setItem('style-studio-cell', event.target.value);
    sized(event.target.value);
});
watch('value', size);
size();
