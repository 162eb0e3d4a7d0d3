"""What lies in the workspace: runs, and the styles they and their user brought. Knows files and
ids; no torch, no gradio.

The page hands out ids (`run:NAME`, `file:NAME`, `step:NAME:UPDATES`) and gets them back; an id is
looked up in a listing, never opened as a path.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from studio.library import preferences
from studio.library.cards import card
from studio.processes import process
from training import events
from training.data.captions import TEMPLATE
from training.errors import StudioError, StyleFileError
from training.storage.paths import STEPS, Workspace, inside
from training.style_files.reading import read_metadata, recipe_of


@dataclass(frozen=True)
class Style:
    """A finished style. base:

    what it was made for, "" when the file does not say; rank: "" likewise.
    """

    id: str
    name: str
    path: Path
    trigger: str = ""
    rank: str = ""
    base: str = ""

    @property
    def title(self) -> str:
        """What a user chooses by: name, trigger word and rank."""
        parts = [
            f"say “{self.trigger}”" if self.trigger else "",
            f"rank {self.rank}" if self.rank else "",
        ]
        return " · ".join([self.name, *filter(None, parts)])


def runs(workspace: Workspace) -> list[str]:
    """Names of the runs, the one that spoke last first."""
    root = workspace.runs()
    found = (
        [f for f in root.iterdir() if (f / "run.toml").is_file() or (f / "events.jsonl").is_file()]
        if root.is_dir()
        else []
    )
    return [f.name for f in sorted(found, key=_last_touched, reverse=True)]


def run(workspace: Workspace, name: str | None) -> Path:
    """The folder of a run in the listing. Raises StudioError for any other name."""
    if name not in runs(workspace):
        raise StudioError(
            f"There is no run named {name!r}. Choose one in the list." if name else "Choose a run."
        )
    return inside(workspace.runs(), name)


def free_run_name(workspace: Workspace, wanted: str) -> str:
    """The wanted name, or the next with a number that no run has: my-style, my-style-2, ..."""
    taken = (
        {f.name.casefold() for f in workspace.runs().iterdir()}
        if workspace.runs().is_dir()
        else set()
    )
    stem, count, free = re.sub(r"-\d+$", "", wanted) or wanted, 2, wanted
    while free.casefold() in taken:
        free, count = f"{stem}-{count}", count + 1
    return free


def styles(workspace: Workspace) -> list[Style]:
    """Every style: of runs first, the newest first, then the files in styles/.

    A damaged file is left out.
    """
    of_runs = [
        (f"run:{name}", name, workspace.runs() / name / f"{name}.safetensors")
        for name in runs(workspace)
    ]
    root = workspace.styles()
    files = sorted(root.glob("*.safetensors")) if root.is_dir() else []
    of_files = [(f"file:{f.stem}", f.stem, f) for f in files]
    described = (
        _described(id, name, path) for id, name, path in of_runs + of_files if path.is_file()
    )
    return [style for style in described if style is not None]


def style(workspace: Workspace, id: str) -> Style:
    """The style of an id. Raises StudioError when it is not in the listing."""
    kind, _, rest = str(id or "").partition(":")
    listing = (
        checkpoints(workspace, f"run:{rest.rpartition(':')[0]}")
        if kind == "step"
        else styles(workspace)
    )
    for found in listing:
        if found.id == id:
            return found
    raise StudioError(
        "That style is not in the workspace any more. Choose another one in the list."
    )


def checkpoints(workspace: Workspace, id: str) -> list[Style]:
    """The styles that a run wrote along the way, the earliest first; [] for a style that no run of
    the workspace made.
    """
    kind, _, name = id.partition(":")
    if kind != "run" or name not in runs(workspace):
        return []
    by_updates = {
        int(number): f
        for f in (workspace.runs() / name / STEPS).glob("*.safetensors")
        if (number := f.stem.rpartition("-")[2]).isdecimal()
    }
    config = process.earlier(workspace.runs() / name)
    base = config.base.model if config else ""
    return [
        Style(
            f"step:{name}:{updates}",
            f"{name}, step {updates}",
            by_updates[updates],
            base=base,
        )
        for updates in sorted(by_updates)
    ]


def prompts(workspace: Workspace, id: str) -> tuple[str, ...]:
    """What a run's last previews showed:

    good first prompts to compare with. () when it drew none or the style is no run's.
    """
    kind, _, name = id.partition(":")
    name = name.rpartition(":")[0] if kind == "step" else name
    if kind not in ("run", "step") or name not in runs(workspace):
        return ()
    drawn = [
        e.prompts
        for e in events.read(workspace.runs() / name / "events.jsonl")
        if isinstance(e, events.Previewed)
    ]
    return drawn[-1] if drawn else ()


def plain_prompts(workspace: Workspace, id: str) -> tuple[str, ...]:
    """The same without the words that call the style."""
    found = prompts(workspace, id)
    config = process.earlier(workspace.runs() / id.split(":")[1]) if found else None
    if config is None:
        return found
    data = config.data
    return tuple(without_trigger(text, data.trigger, data.template) for text in found)


def without_trigger(prompt: str, trigger: str, template: str = TEMPLATE) -> str:
    """A prompt without the words that call a style, which a comparison adds where the style is
    drawn: the base shall not be drawn with them.
    """
    before, _, after = template.replace("{trigger}", trigger).partition("{caption}")
    if not trigger:
        return prompt
    if prompt.startswith(before) and prompt.endswith(after) and len(before + after) < len(prompt):
        return prompt[len(before) : len(prompt) - len(after)]
    word = rf"(?<!\w){re.escape(trigger)}(?!\w)"
    left = re.sub(rf"{word}(\s+style)?", "", prompt, flags=re.IGNORECASE)
    parts = (" ".join(part.split()) for part in left.split(","))
    return ", ".join(part for part in parts if part) or prompt


def guidance(style: Style) -> float | None:
    """The guidance scale of the previews by which a style was judged while it was made; None when
    its file does not say.
    """
    try:
        preview = recipe_of(read_metadata(style.path)).get("preview")
    except StyleFileError:
        return None
    guidance = preview.get("guidance") if isinstance(preview, dict) else None
    return float(guidance) if isinstance(guidance, int | float) and 1 <= guidance <= 30 else None


def bases(workspace: Workspace) -> list[str]:
    """Base models to offer:

    the one chosen in the settings, those of the runs, the newest first, and the built-in one.
    """
    configs = (process.earlier(workspace.runs() / name) for name in runs(workspace)[:50])
    chosen = preferences.base(workspace)
    return list(
        dict.fromkeys(
            [
                *([chosen] if chosen else []),
                *(config.base.model for config in configs if config),
                "mini",
            ]
        )
    )


def trained_with(workspace: Workspace, dataset: Path) -> tuple[str, str]:
    """Trigger and template of the latest run on a dataset; no trigger where there is none."""
    for name in runs(workspace)[:10]:
        config = process.earlier(workspace.runs() / name)
        if config and Path(config.data.folder) == dataset:
            return config.data.trigger, config.data.template
    return "", TEMPLATE


def _described(id: str, name: str, path: Path) -> Style | None:
    """What the file says of itself; for a run, what its settings say where the file is silent."""
    try:
        metadata = read_metadata(path)
    except StyleFileError:
        return None
    config = process.earlier(path.parent) if id.startswith("run:") else None
    trigger = metadata.get("modelspec.trigger_phrase") or (config.data.trigger if config else "")
    return Style(
        id,
        card(path).title or name,
        path,
        trigger,
        metadata.get("ss_network_dim", ""),
        config.base.model if config else metadata.get("ss_sd_model_name", ""),
    )


def _last_touched(run: Path) -> float:
    for name in ("events.jsonl", "run.toml"):
        if (run / name).exists():
            return (run / name).stat().st_mtime
    return time.time()
