"""What the Compare tab shows, as HTML: the grid with a large view, a blind look and flipping, and the comparisons drawn before. Knows no gradio."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from html import escape

# Large view: arrows walk, Space (or holding the picture) flips to the row's first column, + and - zoom, Escape closes.
# Blind: every row's columns in an order of its own, no names; picks are told to the server at the end.
LOOK = """
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
    at = [(at[0] + down + all.length) % all.length, (at[1] + across + wide) % wide];
    flipped = false; show();
};
const scale = by => { zoom = Math.min(8, Math.max(1, zoom * by)); show(); };
const flip = on => { flipped = on; show(); };
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
        $('.comparison').classList.add('blind');
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
        }
        $('.verdict').textContent = 'Pick the better picture of each row, then reveal.';
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
"""
PICK = """
element.addEventListener('click', event => {
    const comparison = event.target.closest('[data-at]');
    if (comparison) trigger('select', {at: comparison.dataset.at});
});
"""


def grid(name: str, columns: Sequence[str], rows: Sequence[tuple[str, int]], cells: Sequence[Sequence[str]], picks: Sequence[int | None]) -> str:
    """name: the comparison's; rows: prompt and seed; cells: addresses, [rows][columns]; picks: what a blind look preferred, [] for none."""
    heads = "".join(f"<th scope=col>{escape(title)}</th>" for title in columns)
    body = "".join(
        f'<tr data-title="{escape(prompt)}, seed {seed}"><th scope=row>{escape(prompt)}<small>seed {seed}</small></th>'
        + "".join(_cell(address, c, columns[c], prompt, bool(picks) and picks[r] == c) for c, address in enumerate(cells[r]))
        + "</tr>"
        for r, (prompt, seed) in enumerate(rows)
    )
    blind = (
        '<button type="button" class="mend start" data-act="blind">Look blind</button>'
        '<button type="button" class="mend end" data-act="reveal">Reveal</button>'
        f'<p class="note verdict" role="status">{escape(verdict(columns, picks))}</p>'
    )
    return (
        f'<div class="comparison" data-of="{escape(name)}"><div class="mends">{blind if len(columns) > 1 else ""}</div>'
        f'<div class="scroll"><table><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>{LARGE}'
    )


LARGE = (
    '<dialog class="large" aria-label="One picture, large"><div class="bar"><b class="what"></b>'
    '<button type="button" data-act="flip" title="Space">Flip to the base</button>'
    '<button type="button" data-act="smaller" aria-label="Smaller">−</button>'
    '<button type="button" data-act="larger" aria-label="Larger">+</button><button type="button" data-act="close">Close</button></div>'
    '<div class="stage"><img alt=""></div><p class="note">Arrow keys go through the grid, Space flips to the base, + and − zoom.</p></dialog>'
)


def _cell(address: str, column: int, title: str, prompt: str, picked: bool) -> str:
    """One picture of the grid, with the button of a blind look."""
    return (
        f'<td data-column="{column}" data-title="{escape(title)}"{" data-picked" if picked else ""}>'
        f'<button type="button" class="open" title="Open large"><img src="{escape(address)}" alt="{escape(title)}: {escape(prompt)}"></button>'
        f'<button type="button" class="pick" data-act="pick" aria-pressed="{json.dumps(picked)}">Better</button></td>'
    )


def verdict(columns: Sequence[str], picks: Sequence[int | None]) -> str:
    """What a blind look found, in words; "" without one."""
    counted = Counter(pick for pick in picks if pick is not None)
    if not counted:
        return ""
    told = ", ".join(f"{columns[column]} {count}" for column, count in counted.most_common())
    return f"Looked at blind, preferred: {told} of {len(picks)} rows."


def drawing(done: int, of: int, words: str) -> str:
    """How far a drawing is. done, of: denoising steps; of is 0 while that is not known."""
    share = 100 * done / of if of else 0
    return (
        f'<div class="run-status" role="status"><div class="run-head"><b>Drawing…</b><span class="run-state">{escape(words)}</span></div>'
        f'<div class="run-bar" role="progressbar" aria-label="Drawn" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100">'
        f'<div style="width: {share:.1f}%"></div></div></div>'
    )


def past(items: Sequence[tuple[str, str, str]], chosen: str, searched: str = "") -> str:
    """items: address, name and title of each comparison, the newest first."""
    if not items:
        return f'<p class="note">No comparison is found by “{escape(searched)}”.</p>' if searched else ""
    cells = "".join(
        f'<button type="button" class="thumb" data-at="{escape(name)}"{" aria-current=true" if name == chosen else ""} title="{escape(title)}">'
        f'<img src="{escape(address)}" alt="" loading="lazy"><span class="name">{escape(title)}</span></button>'
        for address, name, title in items
    )
    return f'<div class="past" role="group" aria-label="Drawn before">{cells}</div>'
