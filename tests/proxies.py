"""nginx and Caddy for tests/test_behind_a_proxy.py: those that are there, else apt's when root.

`python -m tests.proxies` gets what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PACKAGES = {"nginx": "nginx-light", "caddy": "caddy"}  # by program, of Debian


def missing(program: str) -> str | None:
    """Why a program cannot be used, None when it is there."""
    if shutil.which(program):
        return None
    return f"no {program}: apt-get install {PACKAGES[program]}"


def install() -> None:
    """Try apt when root, one package after another; what fails is passed over."""
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")):
        return
    wanted = [package for program, package in PACKAGES.items() if missing(program)]
    commands = [["apt-get", "update", "-qq"]] if wanted else []
    commands += [
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        for package in wanted
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for command in commands:
        try:
            subprocess.run(command, timeout=300, check=False, **quiet)
        except (OSError, subprocess.SubprocessError):
            continue


def main() -> int:
    install()
    for program in PACKAGES:
        if reason := missing(program):
            print(f"{reason}; its half of tests/test_behind_a_proxy.py is left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
