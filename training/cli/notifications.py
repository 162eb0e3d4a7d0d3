"""Word of a run's end: a message to a web address, a notice on this machine's desktop. Both are off
unless they are asked for.

What goes wrong costs a line on stderr, never the run, and no more time than PATIENCE each.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from typing import IO
from urllib.parse import urlsplit

from training import __version__, events
from training.config.addresses import address_complaint
from training.config.schema import RunConfig
from training.errors import ConfigError, without_controls

# The address for runs whose settings name none: those that are started from the page, for instance
VARIABLE = "STYLE_STUDIO_WEBHOOK"
PATIENCE = 10.0  # seconds that the address or the desktop is waited for
# Title and text come as arguments or in the environment, so that nothing in them is ever obeyed
APPLE = (
    "on run argv",
    "display notification (item 2 of argv) with title (item 1 of argv)",
    "end run",
)
WINDOWS = (
    "Add-Type -AssemblyName System.Windows.Forms, System.Drawing; "
    "$icon = New-Object System.Windows.Forms.NotifyIcon; "
    "$icon.Icon = [System.Drawing.SystemIcons]::Information; $icon.Visible = $true; "
    "$icon.ShowBalloonTip(5000, $env:NOTICE_TITLE, $env:NOTICE_TEXT, 'Info'); "
    "Start-Sleep -Seconds 5; $icon.Dispose()"
)
PROGRAMS = {"darwin": "osascript", "win32": "powershell"}  # on other systems notify-send
Ended = events.Finished | events.Failed


def check(configs: Iterable[RunConfig]) -> None:
    """Raise ConfigError for an address that is none, and for a desktop that cannot be reached."""
    address = os.environ.get(VARIABLE, "")
    if address and (complaint := address_complaint(address)):
        raise ConfigError(
            f"The variable {VARIABLE} is no web address: {complaint}. Set it to one, or unset it."
        )
    program = PROGRAMS.get(sys.platform, "notify-send")
    if any(config.save.notify for config in configs) and shutil.which(program) is None:
        advice = "" if sys.platform in PROGRAMS else " (Debian and Ubuntu: libnotify-bin)"
        raise ConfigError(
            f"save.notify is on, but {program}, which shows notices on a desktop, is not "
            f"installed. Install it{advice}, or turn save.notify off."
        )


def notified(stream: Iterable[events.Event], config: RunConfig) -> Iterator[events.Event]:
    """Pass events on; once the last one has been taken, tell who wanted to know."""
    for _, event in notified_many(((0, event) for event in stream), [config]):
        yield event


def notified_many(
    stream: Iterable[tuple[int, events.Event]], configs: Sequence[RunConfig]
) -> Iterator[tuple[int, events.Event]]:
    """The same for several styles, each event with its style's number."""
    for number, event in stream:
        yield number, event
        if isinstance(event, Ended):
            for complaint in tell(configs[number], event):
                print(without_controls(complaint), file=sys.stderr, flush=True)


def tell(config: RunConfig, event: Ended) -> list[str]:
    """Say that a run has ended, where its settings want it; return what went wrong."""
    wrong = []
    address = config.save.webhook or os.environ.get(VARIABLE, "")
    if address and (complaint := _in_time(address, message(config.save.name, event))):
        host = urlsplit(address).hostname  # the rest of an address may be a secret
        wrong.append(f"the end of the run could not be told to {host}: {complaint}.")
    if config.save.notify and (complaint := show(*words(config.save.name, event))):
        wrong.append(f"the notice of the run's end could not be shown: {complaint}.")
    return wrong


def words(name: str, event: Ended) -> tuple[str, str]:
    """Title and text for a person. They hold no paths and no captions, as an error's message may:
    whoever shows them may be anybody.
    """
    if isinstance(event, events.Failed):
        return f"{name} failed", f"{event.saved} updates are saved. The run says why."
    how = "was stopped" if event.stopped else "is finished"
    return f"{name} {how}", f"{event.step} updates, {event.seconds / 60:.0f} minutes."


def message(name: str, event: Ended) -> dict[str, str | int | float | bool]:
    """What is sent: the end for programs; `text` (Slack, Mattermost) and `content` (Discord) for
    people.
    """
    text = ": ".join(words(name, event))
    said = {"event": type(event).__name__.lower(), "style": name, "text": text, "content": text}
    if isinstance(event, events.Failed):
        return {**said, "step": event.saved}
    return {**said, "step": event.step, "stopped": event.stopped, "seconds": event.seconds}


def _in_time(address: str, record: dict[str, str | int | float | bool]) -> str:
    """Send a record; a server that lets its answer trickle is left alone after PATIENCE."""
    found: list[str] = []
    sending = threading.Thread(target=lambda: found.append(sent(address, record)), daemon=True)
    sending.start()
    sending.join(PATIENCE)
    return found[0] if found else f"it did not answer within {PATIENCE:g} seconds"


def sent(address: str, record: dict[str, str | int | float | bool]) -> str:
    """Send a record as JSON by POST; return what went wrong, "" for nothing. Raises nothing."""
    request = urllib.request.Request(
        address,
        data=json.dumps(record).encode(),
        headers={
            "Content-Type": "application/json",
            "User-Agent": f"style-studio/{__version__}",
        },
    )
    try:
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=PATIENCE):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A message goes to the address that was given, and to no other."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        return None


def show(title: str, text: str) -> str:
    """Show a notice on the desktop; return what went wrong, "" for nothing."""
    command, values = notice(sys.platform, title, text)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **values},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    said = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (said[-1] if said else f"{command[0]} failed")


def notice(system: str, title: str, text: str) -> tuple[list[str], dict[str, str]]:
    """The command that shows a notice on a system, and what it needs in its environment."""
    if system == "darwin":
        script = [word for line in APPLE for word in ("-e", line)]
        return ["osascript", *script, title, text], {}
    if system == "win32":
        command = ["powershell", "-NoProfile", "-NonInteractive", "-Command", WINDOWS]
        return command, {"NOTICE_TITLE": title, "NOTICE_TEXT": text}
    return ["notify-send", "--app-name=Style Studio", "--", title, text], {}
