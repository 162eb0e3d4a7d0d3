"""OpenMP's threads wait as training.openmp says, in every process, unless the user decides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training import openmp

ROOT = Path(__file__).resolve().parents[1]
ENTRY_POINTS = (
    "training.train_style",
    "training.cli.style_file",
    "studio.__main__",
    "studio.compare",
    "studio.datasets.caption_worker",
    "studio.processes.plan_worker",
    "studio.processes.worker",
    "studio.system.device_worker",
)
# Says what libgomp would read at the moment when torch begins to load it, and ends there
WATCH = """
import importlib, os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
            print(*(os.environ.get(one, "unset") for one in names), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
importlib.import_module(sys.argv[1])
import torch
"""


def at_torch(module: str, **chosen: str) -> list[str]:
    """GOMP_SPINCOUNT when the module's process loads torch, and OMP_WAIT_POLICY."""
    kept = {name: text for name, text in os.environ.items() if name not in openmp.CHOICES}
    environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **chosen}
    command = [sys.executable, "-B", "-c", WATCH, module]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr
    return ended.stdout.split()


@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_every_entry_point_bounds_the_spinning_before_torch_is_there(module: str) -> None:
    assert at_torch(module) == [str(openmp.SPINS), "unset"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"GOMP_SPINCOUNT": "7"}, ["7", "unset"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["unset", "ACTIVE"]),
    ],
)
def test_what_the_user_chose_stays(chosen: dict[str, str], expected: list[str]) -> None:
    assert at_torch("training.train_style", **chosen) == expected


def test_libgomp_reads_it() -> None:
    """libgomp itself says what it has taken when torch loads it."""
    kept = {name: text for name, text in os.environ.items() if name not in openmp.CHOICES}
    environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE"}
    command = [sys.executable, "-B", "-c", "import training, torch"]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if "GOMP_SPINCOUNT" not in ended.stderr:
        pytest.skip("this torch brings another OpenMP than libgomp")
    assert f"GOMP_SPINCOUNT = '{openmp.SPINS}'" in ended.stderr
