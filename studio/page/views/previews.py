"""Previews as a strip that grows: a row a prompt, a column a look, the first of all before anything was learnt. Knows no files and no gradio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MOST = 40  # columns; the first one always stays

# A click opens a picture large; arrows walk through its row, Escape closes.
LOOK = """
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
"""


@dataclass(frozen=True)
class Look:
    """One preview. small, large: addresses of copies of one prompt's picture after so many updates."""

    step: int
    prompt: str
    small: str
    large: str


def kept(steps: Sequence[int]) -> list[int]:
    """The columns that are shown: all, or the first and the newest."""
    found = sorted(set(steps))
    return found if len(found) <= MOST else [found[0], *found[-MOST + 1 :]]


def strip(looks: Sequence[Look]) -> str:
    """The strip; "" where nothing was drawn yet."""
    if not looks:
        return ""
    steps, prompts = kept([look.step for look in looks]), list(dict.fromkeys(look.prompt for look in looks))
    cells = {(look.prompt, look.step): look for look in looks}
    head = "".join(f"<th scope=col>{'before' if step == 0 else f'{step}'}</th>" for step in steps)
    rows = "".join(f"<tr><th scope=row>{escape(prompt)}</th>{''.join(_cell(cells.get((prompt, step))) for step in steps)}</tr>" for prompt in prompts)
    return (
        '<figure class="strip"><figcaption>Previews by updates, from before the first one to now; the same noise along a row</figcaption>'
        '<div class="scroll" tabindex="0">'
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        '<dialog aria-label="A preview, large"><div class="bar"><span class="what"></span><button type="button" data-close>Close</button></div>'
        '<img alt=""></dialog></figure>'
    )


def _cell(look: Look | None) -> str:
    if look is None:
        return "<td></td>"
    what = escape(f"{look.prompt}, {'before the first update' if look.step == 0 else f'{look.step} updates'}")
    return (
        f'<td><button type="button" data-large="{escape(look.large)}" data-what="{what}"><img src="{escape(look.small)}" alt="{what}" loading="lazy">'
        "</button></td>"
    )
