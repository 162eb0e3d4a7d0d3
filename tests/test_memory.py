"""How much memory there is, as a machine and its control groups tell it, and how much is taken at
worst.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from training.runtime import memory

CPU, MIB = torch.device("cpu"), 2**20


def machine(root: Path, groups: str, files: dict[str, str], available: int = 8192) -> Path:
    """A folder with the files of a machine that has so many MiB available.

    groups: what /proc/self/cgroup says.
    """
    usual = {
        "proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable:   {available * 1024} kB\n",
        "proc/self/cgroup": groups,
    }
    for name, text in (
        usual | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    ).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def two(folder: str, limit: object, used: int, cache: int = 0) -> dict[str, str]:
    """Files of a control group of version 2, in bytes."""
    return {
        f"{folder}memory.max": f"{limit}\n",
        f"{folder}memory.current": f"{used}\n",
        f"{folder}memory.stat": f"anon 5\ninactive_file {cache}\n",
    }


def one(folder: str, limit: int, used: int, cache: int = 0) -> dict[str, str]:
    """The same of version 1."""
    names = {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {cache}",
    }
    return {f"memory/{folder}{name}": f"{text}\n" for name, text in names.items()}


@pytest.mark.parametrize(
    ("groups", "files", "mib"),
    [
        ("", {}, 8192),
        ("0::/\n", two("", "max", 5 * MIB), 8192),
        ("0::/\n", two("", 1000 * MIB, 600 * MIB, 100 * MIB), 500),
        ("0::/a/b\n", two("a/b/", "max", 5) | two("a/", 700 * MIB, 600 * MIB), 100),
        ("0::/a\n", two("a/", 9000 * MIB, 0), 8192),
        ("0::/a\n", two("a/", 500 * MIB, 600 * MIB), 0),
        ("0::/../other\n", two("", 300 * MIB, 100 * MIB), 200),
        (
            "7:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n",
            one("", 400 * MIB, 100 * MIB, 50 * MIB),
            350,
        ),
        ("4:cpuset,memory:/a\n", one("", 2**63 - 4096, 9) | one("a/", 64 * MIB, 32 * MIB), 32),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "?"}, 8192),
    ],
    ids=(
        "none",
        "no limit",
        "limit",
        "of a parent",
        "above what is there",
        "overdrawn",
        "seen from outside",
        "container",
        "version 1",
        "unreadable",
    ),
)
def test_free_memory_is_what_the_machine_has_up_to_the_limit_of_its_groups(
    tmp_path: Path, groups: str, files: dict[str, str], mib: int
) -> None:
    assert memory.free(CPU, machine(tmp_path, groups, files, 8192)) == pytest.approx(mib / 1024)


def test_this_machine_has_some_memory_and_this_process_takes_some() -> None:
    assert 0 < memory.free(CPU) < 1e5 and 0.05 < memory.taken(CPU) < 1e3


class Greedy(nn.Module):
    """Fills so many MiB for a moment."""

    def __init__(self, mib: int) -> None:
        super().__init__()
        self.mib, self.called = mib, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.called += 1
        return x + torch.ones(self.mib * MIB // 4).cumsum(0)[0]


def test_the_peak_is_seen_though_it_is_gone_at_the_end() -> None:
    memory.give_back(CPU)
    before = memory.taken(CPU)
    with memory.watched(CPU, 1e9) as watch:
        Greedy(200)(torch.zeros(1))
    memory.give_back(CPU)
    assert (
        watch.peak - before > 0.35 > memory.taken(CPU) - before
    )  # twice 200 MiB: the ones and their sums


def test_no_module_begins_once_too_much_is_taken() -> None:
    memory.give_back(CPU)
    modules = nn.Sequential(*(Greedy(1) for _ in range(3)))
    kept = []
    modules[1].register_forward_hook(lambda *_: kept.append(torch.ones(100 * MIB // 4)))
    with (
        pytest.raises(torch.OutOfMemoryError, match="GiB are taken"),
        memory.watched(CPU, memory.taken(CPU) + 0.05),
    ):
        modules(torch.zeros(1))
    assert [module.called for module in modules] == [1, 1, 0]
    modules(torch.zeros(1))  # nothing is watched any more
    assert modules[2].called == 1


def test_what_was_taken_too_much_is_reported_at_the_end_at_the_latest() -> None:
    memory.give_back(CPU)
    with pytest.raises(torch.OutOfMemoryError), memory.watched(CPU, memory.taken(CPU) + 0.1):
        Greedy(200)(torch.zeros(1))


def test_weights_in_a_file_count_as_far_as_they_are_used(tmp_path: Path) -> None:
    save_file(
        {"weight": torch.ones(1000, 1000), "other": torch.ones(500, 1000)},
        tmp_path / "model.safetensors",
    )
    own, network = nn.Linear(10, 10), nn.Linear(1000, 1000, bias=False)
    memory.give_back(CPU)
    before = memory.taken(CPU)
    read = load_file(tmp_path / "model.safetensors")
    assert float(read["weight"].sum() + read["other"].sum()) == 1.5e6
    network.weight = nn.Parameter(read["weight"])
    assert memory.mapped([own]) == 0 and memory.mapped([own, network, network]) == pytest.approx(
        4e6 / 2**30
    )
    assert memory.taken(CPU) - before < 4e6 / 2**30
    with memory.watched(CPU, 1e9, beside=7.0) as watch:
        own(torch.zeros(10))
    assert 7 < watch.peak < 17
