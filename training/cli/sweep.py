"""Several styles from one file: `train-style --sweep SWEEP.toml` trains them together, then
compares and ranks them.

The file is a run.toml whose settings all styles share, with [[styles]] (tables of settings, one a
style), [grid] (lists of settings, every combination a style), or both: each of the styles with
every combination.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config.loading import from_mapping, nearest
from training.config.places import absolute
from training.config.schema import RunConfig
from training.config.settings import Setting, settings
from training.errors import ConfigError

if TYPE_CHECKING:
    from training.runtime.distributed import ProcessGroup
    from training.trainer.full_disk import Stop

MOST = 64  # styles of one sweep
COLUMNS = 12  # styles in the grid at most


def styles_of(
    tables: Mapping[str, Any], source: str, folder: Path | None = None
) -> list[RunConfig]:
    """The configs that a sweep's tables stand for, each with a save.name of its own. folder: where
    their file lies, None when their paths are absolute.

    Raises ConfigError with what is wrong.
    """
    shared = {
        section: values for section, values in tables.items() if section not in ("styles", "grid")
    }
    styles, grid = tables.get("styles", [{}]), tables.get("grid", {})
    if not isinstance(styles, list) or not all(isinstance(one, Mapping) for one in styles):
        raise ConfigError(f"{source}: styles must be [[styles]] tables, one for each style.")
    if "styles" not in tables and "grid" not in tables:
        raise ConfigError(
            f"{source} is no sweep: it has neither [[styles]] nor [grid]. Without --sweep it "
            "is one run."
        )
    axes = _axes(grid, source)
    count = len(styles)
    for _, values in axes:
        count *= len(values)
    if not 0 < count <= MOST:
        raise ConfigError(
            f"{source} stands for {count} styles, 1 to {MOST} were expected. Take fewer values."
        )
    made: list[RunConfig] = []
    for number, one in enumerate(styles):
        for chosen in itertools.product(*(values for _, values in axes)):
            values = [(s, value) for (s, _), value in zip(axes, chosen, strict=True)]
            given = _merged(_merged(shared, one), _nested(values))
            given = absolute(given, folder) if folder else given
            named = one.get("save", {}) if isinstance(one.get("save", {}), Mapping) else {}
            stem = str(
                named.get("name") or given.get("save", {}).get("name") or RunConfig().save.name
            )
            stem += f"-{number + 1}" if len(styles) > 1 and "name" not in named else ""
            given = _merged(
                given,
                {
                    "save": {
                        "name": stem
                        + "".join(
                            f"-{s.name.replace('_', '-')}-{_word(value)}" for s, value in values
                        )
                    }
                },
            )
            made.append(
                from_mapping(given, f"{source}, style {len(made) + 1} ({given['save']['name']})")
            )
    return made


def _axes(grid: Any, source: str) -> list[tuple[Setting, list[Any]]]:
    """The settings that vary and their values."""
    if not isinstance(grid, Mapping) or not all(
        isinstance(values, Mapping) for values in grid.values()
    ):
        raise ConfigError(
            f"{source}: [grid] holds settings with lists of values, for instance adapter.rank "
            "= [4, 16]."
        )
    known = {s.key: s for s in settings()}
    axes = []
    for section, values in grid.items():
        for name, choices in values.items():
            key = f"{section}.{name}"
            if key not in known or key in ("save.name", "save.folder"):
                raise ConfigError(
                    f"{source}: grid.{key} is not a setting that can "
                    f"vary{nearest(key, list(known))}"
                )
            if (
                not isinstance(choices, list)
                or not choices
                or (known[key].kind is list and not all(isinstance(c, list) for c in choices))
            ):
                raise ConfigError(
                    f"{source}: grid.{key} is {choices!r}, a list of its values was expected, "
                    f"for instance {key} = [...]."
                )
            axes.append((known[key], choices))
    return axes


def _nested(values: Sequence[tuple[Setting, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for s, value in values:
        made.setdefault(s.section, {})[s.name] = value
    return made


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with the values of others over them; what is no table stays for the check to judge."""
    made = dict(below)
    for section, values in above.items():
        under = made.get(section)
        made[section] = (
            {**under, **values}
            if isinstance(under, Mapping) and isinstance(values, Mapping)
            else values
        )
    return made


def _word(value: Any) -> str:
    """A value as a part of a file's name."""
    text = (
        "+".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
    return (
        "".join(c if c.isalnum() or c in "+-." else "-" for c in text)[-24:].strip("-.") or "none"
    )


def run(
    configs: Sequence[RunConfig], stop: Stop, world: ProcessGroup, *, as_json: bool = False
) -> int:
    """Train them together, show and record; then the grid of all beside the base and the table.
    Returns the exit code.

    Several processes take turns at the styles, each over a base of its own; what comes at the end
    is the first one's.
    """
    from training import events
    from training.cli import notifications
    from training.cli.for_programs import print_events_of_many
    from training.cli.terminal import show_many
    from training.cli.trackers import check, tracked_many
    from training.trainer.joint import together

    if world.shards:
        raise ConfigError(
            "a sweep gives each process styles of its own over a whole base: turn FSDP off in "
            "accelerate's configuration."
        )
    check(name for config in configs for name in config.save.track)
    notifications.check(configs)
    own = configs[world.rank :: world.size]

    def recorded() -> Any:
        for number, event in tracked_many(together(own, stop), own):
            folder = own[number].run_folder
            try:
                folder.mkdir(parents=True, exist_ok=True)
                events.append(folder / "events.jsonl", event)
            except OSError as error:
                print(
                    f"{folder / 'events.jsonl'} cannot be written ({error.strerror}): the "
                    "training continues without it.",
                    file=sys.stderr,
                )
            if isinstance(event, events.Failed):
                failed.append(own[number])
            if isinstance(event, events.Finished) and not event.stopped:
                done.append(own[number])
            yield number, event

    drawn, failed, done = True, list[RunConfig](), list[RunConfig]()
    names = [config.save.name for config in own]
    stream = notifications.notified_many(recorded(), own)
    if own and as_json:
        print_events_of_many(stream, names)
    elif own:
        show_many(stream, names, [config.run_folder for config in own])
    failed, done = (
        [config for part in world.gathered(some) for config in part] for some in (failed, done)
    )
    done.sort(key=configs.index)
    if world.writes and len(done) > 1 and not stop():
        lines = ranking(done)
        print(json.dumps({"ranking": lines}) if as_json else "\n".join(lines), flush=True)
        drawn = _grid(done, as_json=as_json)
    return 1 if failed or not drawn else 0


def ranking(configs: Sequence[RunConfig]) -> list[str]:
    """The styles by what their reports say of them, the best first; those without a report last."""
    rows = []
    for config in configs:
        file = config.run_folder / "report" / "report.json"
        try:
            rows.append(_ranked(config.save.name, json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError):
            rows.append(
                (1.0, f"{config.save.name}: no report (report.minutes = {config.report.minutes:g})")
            )
    return [f"{place}. {text}" for place, (_, text) in enumerate(sorted(rows), 1)]


def _ranked(name: str, record: dict[str, Any]) -> tuple[float, str]:
    """What to sort a style by, the least first, and its line."""
    best = record["best"]
    style, content, strength = (float(best[key]) for key in ("style", "content", "strength"))
    said = "content not reliable here" if record.get("content_unsure") else f"{content:.0%} content"
    line = f"{name}: {style:.0%} style, {said} ({best['file']} at {strength:g})"
    return -(style**2 * content), line


def _grid(configs: Sequence[RunConfig], *, as_json: bool) -> bool:
    """Have the base and every style drawn side by side on the first style's prompts, by a process
    of its own; whether it could be.
    """
    first, shown = configs[0], configs[:COLUMNS]
    prompts = first.preview.prompts or ["a cat", "a house", "a tree"]
    command = [
        sys.executable,
        "-m",
        "studio.compare",
        "--base",
        first.base.model,
        "--out",
        str(Path(first.save.folder) / "together.png"),
    ]
    command += ["--guidance", f"{first.preview.guidance:g}", "--steps", str(first.preview.steps)]
    for key, values in (
        ("--prompt", prompts),
        ("--style", [config.run_folder / f"{config.save.name}.safetensors" for config in shown]),
    ):
        command += [key, *map(str, values)]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    for path in done.stdout.splitlines():
        print(json.dumps({"grid": path}) if as_json else path, flush=True)
    return done.returncode == 0
