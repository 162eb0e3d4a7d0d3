"""The style report as one HTML file that holds its pictures, and as JSON beside it.

Knows nothing of models.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from training.evaluation.metrics import BANDS
from training.evaluation.rating import HARDLY
from training.evaluation.report import Report, Tried
from training.storage.paths import write_whole

LARGEST = 192  # px, side of a picture on the page
# From benchmarks/RESULTS.md, "What the style report is worth"
AGREES = """\
<b>How far to trust it</b>: on the built-in base five styles were judged in this way for which
true pictures of what was asked exist. Style put checkpoints and strengths into their true order
at 0.88 to 0.99 (Spearman), content at 0.38 to 0.82 where they differ at all. What was
recommended was worth 100 % of the best or more in four of the styles and 85 % in the fifth; the
rule was chosen with them in view. Of larger bases there is no such measurement."""
STYLE = (Path(__file__).parent / "assets" / "report.css").read_text(encoding="utf-8")


def write(report: Report, folder: Path) -> Path:
    """Write report.json and report.html into folder, each whole or not at all; return the page's
    path. Raises SpaceError.
    """
    write_whole(folder / "report.json", report.to_json() + "\n")
    write_whole(folder / "report.html", page(report))
    return folder / "report.html"


def page(report: Report) -> str:
    """The whole page; it asks for nothing from anywhere.

    What comes from files and prompts is escaped.
    """
    title = html.escape(report.title or report.best.file)
    rows = [
        ("the base", report.base),
        *(
            (f"{t.step} × {t.strength:g}" if t.step else f"{t.file} × {t.strength:g}", t)
            for t in report.tried
        ),
    ]
    heads = "".join(f"<span>{html.escape(text)}</span>" for text in report.prompts)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}: style report</title><style>{STYLE}</style>
<h1>{title}</h1>
<p><strong>{html.escape(report.reason)}</strong></p>
{curves(report)}
<h2>In pictures</h2>
<figure><div class="row"><b></b>{heads}</div>
{"".join(row(name, t, best=t is report.best) for name, t in rows)}</figure>
<h2>In numbers</h2>
{table(report)}
<p class="note"><b>Style</b>: share of pictures that are more like the training pictures than like
the base's own, the likeness of a true picture counted whole. <b>Content</b>:
{html.escape(report.content_by)}. <b>Copies</b>: pictures that are
nearer to a training picture than those are to each other. <b>Quality</b>: the geometric mean of
style and content, over a checkpoint and those beside it, less the copies beyond chance; of what
differs by less than {HARDLY:.0%}, strength 1 is recommended. <b>Loss</b>: error of the prediction
at fixed noise, against the base's, from little noise to much, over {html.escape(report.loss_on)}.
Below 1 the style has learnt; where it rises again over the updates, it learns by heart. Prompts
were not in the data. Measured in {report.seconds:.0f} s.</p>
<p class="note">{AGREES}</p>
</html>
"""


def row(name: str, tried: Tried, *, best: bool) -> str:
    pictures = "".join(
        f'<img alt="" src="data:image/webp;base64,{embedded(p)}">' for p in tried.pictures
    )
    return (
        "<div "
        f'class="row{" best" if best else ""}">'
        f"<b>{html.escape(name)}{' · best' if best else ''}</b>{pictures}</div>\n"
    )


def embedded(picture: Image.Image) -> str:
    small, file = picture.copy(), io.BytesIO()
    small.thumbnail((LARGEST, LARGEST))
    small.save(file, "WEBP", quality=88)
    return base64.b64encode(file.getvalue()).decode()


def table(report: Report) -> str:
    head = "".join(
        f"<th>{title}</th>"
        for title in (
            "style file",
            "strength",
            "style",
            "content",
            "copies",
            "quality",
            "nearest training picture",
        )
    )
    head += "".join(f"<th>loss {low:.0%} to {high:.0%}</th>" for low, high in BANDS)
    others = list(report.base.external)
    head += "".join(f"<th>{html.escape(name)}</th>" for name in others)
    lines = []
    for t in (report.base, *report.tried):
        cells = [
            html.escape(t.file) or "the base",
            f"{t.strength:g}" if t.file else "",
            f"{t.style:.0%}",
            f"{t.content:.0%}" if t.content_sure else "not reliable here",
            f"{t.copies:.0%}",
            f"{t.quality:.0%}",
        ]
        cells += [f"{html.escape(t.nearest[0])} ({t.nearest[1]:.2f})"] + (
            [f"{b:.3f}" for b in t.bands] or [""] * len(BANDS)
        )
        cells += [f"{t.external[name]:.0%}" for name in others]
        lines.append(
            f'<tr class="{"best" if t is report.best else ""}">'
            + "".join(f"<td>{c}</td>" for c in cells)
            + "</tr>"
        )
    return f"<figure><table><tr>{head}</tr>{''.join(lines)}</table></figure>"


def curves(report: Report) -> str:
    """Style and content over the updates, at the best strength."""
    chosen = sorted(
        (t for t in report.tried if t.strength == report.best.strength), key=lambda t: t.step
    )
    if len(chosen) < 2:
        return ""
    left, right, top, bottom = 50, 690, 15, 185

    def across(step: int) -> float:
        return left + (right - left) * step / max(1, chosen[-1].step)

    def down(share: float) -> float:
        return bottom - (bottom - top) * share

    drawn, free = [], 0.0  # from where on a word can stand
    colours = {"style": "#d9480f", "content": "#3b82f6"}
    if report.content_unsure:
        del colours["content"]
    # The upper curve first, so that its word stands above the other
    for name in sorted(colours, key=lambda name: -getattr(chosen[-1], name)):
        colour = colours[name]
        points = [(across(t.step), down(getattr(t, name))) for t in (report.base, *chosen)]
        word = max(points[-1][1] + 4, free)
        free = word + 14
        drawn.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{_points(points)}"/>'
        )
        drawn.append(
            f'<text x="{right + 6}" y="{word:.0f}" fill="{colour}" font-size="13">{name}</text>'
        )
    marks = "".join(
        f'<line x1="{left}" x2="{right}" y1="{down(s):.0f}" y2="{down(s):.0f}" stroke="#8884"/>'
        f'<text x="{left - 6}" y="{down(s) + 4:.0f}" font-size="12" fill="currentColor" '
        f'text-anchor="end">{s:.0%}</text>'
        for s in (0.0, 0.5, 1.0)
    )
    x = f"{across(report.best.step):.0f}"
    best = (
        f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" stroke="#2a7d4f" '
        'stroke-dasharray="4 3"/>'
    )
    label = (
        f'<text x="{right}" y="{bottom + 18}" font-size="12" fill="currentColor" '
        f'text-anchor="end">{chosen[-1].step} updates</text>'
    )
    said = f"{' and '.join(colours)} over the updates, at strength {report.best.strength:g}"
    return (
        '<figure><svg viewBox="0 0 760 210" width="760" role="img" '
        f'aria-label="{said}">{marks}{best}{"".join(drawn)}{label}</svg></figure>'
    )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
