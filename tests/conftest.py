"""Fixtures that several test modules share:

one tiny base a session, and a disk that is soon full.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported, and for what tests start: one thread each, as workers share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from tests import tiny_flow
from tests.tiny import tiny_base
from training.models import base_files, loader
from training.models.family import Parts

# How long an example takes says how busy the machine is
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# The files that take longest, longest first: a worker that got one last would hold up the end
FIRST_FILES = (
    "test_passes.py",
    "test_page.py",
    "test_families.py",
    "test_flow_families.py",
    "test_crashes.py",
    "test_style_dialects.py",
    "test_many_pages.py",
    "test_compiled.py",
    "test_fits.py",
    # Those that train many times, or start processes that do
    "test_training.py",
    "test_together.py",
    "test_systems.py",
    "test_queue.py",
    "test_world.py",
    "test_report.py",
    "test_failing_io.py",
    "test_power_loss.py",
    "test_train_style.py",
    "test_whole_way.py",
    "test_vanished_output.py",
    "test_slow_clients.py",
    "test_tabs.py",
)
IN_ITS_OWN = "STYLE_STUDIO_TEST_IN_ITS_OWN_PROCESS"  # set where such a test runs
MOST_SHOWN = 20  # files in the table of those that took longest
SECONDS: Counter[str] = Counter()  # file -> what its tests took, set-up included


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put FIRST_FILES first; the order within a file and of the others stays."""
    rank = {name: place for place, name in enumerate(FIRST_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that measures its process in a fresh one: what other tests and thousands of
    collected ones have taken and given back is no longer counted as growth there.
    """
    if pyfuncitem.get_closest_marker("own_process") is None or os.environ.get(IN_ITS_OWN):
        return None
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath, env=clean | {IN_ITS_OWN: "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"In a process of its own:\n{done.stdout}\n{done.stderr}", pytrace=False)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what every file takes; with workers, in the process that they report to."""
    SECONDS[report.nodeid.partition("::")[0]] += report.duration


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """After a run on several workers, say which files took longest: FIRST_FILES is made by it."""
    if getattr(config.option, "numprocesses", None):
        terminalreporter.section("seconds of the longest files")
        for file, seconds in SECONDS.most_common(MOST_SHOWN):
            terminalreporter.write_line(f"{seconds:7.1f} {file}")


def _loaded(folder: Path, dtype: torch.dtype) -> Parts:
    from training.runtime.device import DeviceSpec

    return loader.load(base_files.find(str(folder)), DeviceSpec(torch.device("cpu"), dtype))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache alone, and find nothing in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLE_STUDIO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny epsilon base on disk. Read only: copy it before you change a file."""
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def v_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny v-prediction base with zero terminal SNR, as the built-in one is."""
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny-v", prediction_type="v_prediction")


@pytest.fixture(scope="session")
def flow_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> a tiny base of it, one of those that are trained on flows. Made once; read only."""

    @functools.cache
    def made(family: str) -> Path:
        return tiny_flow.made(family, tmp_path_factory.mktemp("flow") / family)

    return made


@pytest.fixture(scope="session")
def parts(base_folder: Path) -> Parts:
    """The tiny base in float32 on the CPU, shared:

    put adapters on a base of your own (detect.load), not on this one.
    """
    return _loaded(base_folder, torch.float32)


@pytest.fixture(scope="session")
def parts64(base_folder: Path) -> Parts:
    """The tiny base in float64, where equal sums are equal to 1e-12. Shared like parts."""
    return _loaded(base_folder, torch.float64)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB: a mount where that is allowed, else a limit on the size of files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
        ).returncode
        == 0
    ):
        yield folder
        subprocess.run(["umount", folder], check=True)
        return
    import resource  # not on Windows

    before, heard = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, heard)
