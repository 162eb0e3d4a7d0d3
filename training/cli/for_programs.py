"""What a command says to another program: events as JSON lines, the settings' schema, completion
for shells.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from training import events
from training.config.schema import json_schema

SHELLS = ("bash", "zsh", "tcsh", "fish", "powershell")  # that shtab writes completion for
EXIT_CODES = (
    "exit codes: 0 done; 1 begun and failed, or done with a warning where a report was asked for; "
    "2 refused before anything was begun; 130 interrupted before there was anything to save"
)


class Printing(argparse.Action):
    """A flag that prints what `text` makes of the parser and the flag's value, and ends."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        *,
        text: Callable[[argparse.ArgumentParser, str], str],
        **given: Any,
    ) -> None:
        super().__init__(option_strings, dest, **given)
        self.text = text

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(self.text(parser, str(values)))
        parser.exit(0)


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Give a command its `--completion`."""
    parser.add_argument(
        "--completion",
        action=Printing,
        text=completion,
        choices=SHELLS,
        metavar="SHELL",
        help=f"print the script that completes this command in {', '.join(SHELLS)}, and stop",
    )


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script by which a shell completes a command."""
    import shtab

    return shtab.complete(parser, shell)


def add_schema(parser: argparse.ArgumentParser) -> None:
    """Give a command its `--schema`."""
    parser.add_argument(
        "--schema",
        action=Printing,
        text=lambda parser, value: json_schema(),
        nargs=0,
        help="print the JSON schema of RUN.toml, and stop",
    )


def print_line(values: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(values, allow_nan=False), flush=True)


def print_events(stream: Iterable[events.Event]) -> None:
    """Print each event as one line of JSON, as in events.jsonl."""
    for event in stream:
        print(events.to_line(event), flush=True)


def print_events_of_many(stream: Iterable[tuple[int, events.Event]], names: Sequence[str]) -> None:
    """The same, with the style each is of as `style`."""
    for number, event in stream:
        print_line({"style": names[number]} | json.loads(events.to_line(event)))
