"""`style-studio`, or `python -m studio`:

open the page on this machine. Checks what is typed before anything heavy is loaded.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from studio.library import sample_project
from studio.server import auth
from studio.system import doctor
from training.cli.for_programs import add_completion
from training.cli.interrupts import listen
from training.cli.output import lasting_output
from training.errors import ConfigError, SpaceError, StudioError
from training.storage.disk_errors import FORBIDDEN
from training.storage.paths import Workspace, checked_writable


@lasting_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl+C, SIGTERM or SIGHUP.

    Returns 0, or 2 with a message when it cannot be opened.
    """
    given = _parser().parse_args(argv)
    if given.do == "doctor":
        return _examine(Workspace(given.workspace), as_json=given.json)
    try:
        password = auth.password(given.host, given.password_file, port=given.port)
        public_name = auth.checked_public_name(given.public_name)
        if public_name and password is None:
            raise ConfigError(
                f"--public-name {public_name} lets others in, so a password is needed: give "
                f"--password-file FILE or set {auth.VARIABLE}."
            )
        _check_place(given.host, given.port)
        workspace = Workspace(given.workspace)
        _check(workspace)
        sample_project.settle(workspace, given.begin_with)
    except StudioError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return _open(workspace, given.host, given.port, password, public_name, given.browser)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="style-studio",
        description="Train a style and compare it with the base, in a browser on this machine.",
    )
    parser.add_argument(
        "do",
        nargs="?",
        choices=("open", "doctor"),
        default="open",
        help="open the page, or tell what works on this machine",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; one that others reach needs a password (default %(default)s)",
    )
    parser.add_argument("--port", type=int, default=7860, help="default %(default)s")
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path("workspace"),
        help="folder for datasets, runs and styles (default ./workspace)",
    )
    parser.add_argument(
        "--begin-with",
        choices=sample_project.BEGINNINGS,
        default="example",
        help="what a new workspace holds (default %(default)s)",
    )
    parser.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"what to log in with, else the variable {auth.VARIABLE}",
    )
    parser.add_argument(
        "--public-name",
        metavar="NAME",
        default="",
        help="name browsers use behind a TLS proxy on this machine; needs a password",
    )
    parser.add_argument(
        "--browser", action="store_true", help="show the page in the browser once it is open"
    )
    add_completion(parser)
    parser.add_argument(
        "--json", action="store_true", help="the doctor's findings as one JSON object"
    )
    return parser


def _examine(workspace: Workspace, *, as_json: bool) -> int:
    """Say what works here. Returns 1 when something does not."""
    found = []
    for finding in doctor.examined(workspace):
        found.append(finding)
        if not as_json:
            print(doctor.summary_line(finding), flush=True)
    if as_json:
        print(doctor.as_json(found))
    return 1 if any(finding.state == "bad" for finding in found) else 0


def _check_place(host: str, port: int) -> None:
    """Raises ConfigError unless host and port can be had."""
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port is {port}, a number from 1 to 65535 was expected.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _no_port(host, port, error) from None


def _check(workspace: Workspace) -> None:
    """Raise SpaceError for a workspace that can be neither written nor read; one that is there is
    opened also on a full disk, since the page is where room is made on it.
    """
    try:
        checked_writable(workspace.root, "--workspace")
    except SpaceError as error:
        if not workspace.datasets().is_dir() and not workspace.runs().is_dir():
            raise
        print(error, file=sys.stderr)


def _no_port(host: str, port: int, error: OSError) -> ConfigError:
    said = error.strerror or error
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"--host is {host}, which is no address of this machine ({said}). Give one of its "
            "own, or leave it out."
        )
    if error.errno in FORBIDDEN:
        return ConfigError(
            f"Port {port} on {host} is not for everybody ({said}). Give a --port of 1024 or more."
        )
    return ConfigError(
        f"Port {port} on {host} cannot be had ({said}). Is the page open "
        "already? Else give another --port."
    )


def _leave(kind: int, frame: object) -> None:
    if kind == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(0)


def _open(
    workspace: Workspace,
    host: str,
    port: int,
    password: str | None,
    public_name: str,
    browser: bool,
) -> int:
    listen(_leave)
    with tempfile.TemporaryDirectory(prefix="style-studio-", ignore_cleanup_errors=True) as copies:
        # Before gradio is imported: copies for the browser go with the page, nothing is reported to
        # anyone, and this machine is no proxy's affair.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(copies).resolve())
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        for name in ("no_proxy", "NO_PROXY"):
            os.environ[name] = ",".join(
                [*filter(None, [os.environ.get(name)]), "127.0.0.1", "localhost", "::1"]
            )
        from studio.page import app
        from studio.processes.queue import Queue

        try:
            Queue(workspace).wake()  # what waited when the machine went down
        except StudioError as error:  # the page opens without it, and says so too
            print(error, file=sys.stderr)
        try:
            app.serve(
                app.build(workspace),
                host=host,
                port=port,
                password=password,
                public_name=public_name,
                browser=browser,
            )
        except KeyboardInterrupt:
            return 0
        except OSError as error:
            print(_no_port(host, port, error), file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
