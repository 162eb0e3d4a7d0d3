"""Bytes of unknown origin, changed in a few places: taken or refused, never a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.next_kind.fuzz_targets import MOST, TARGETS
from tests.next_kind.fuzzing import CORPUS, Fuzzer

SOME = 150  # inputs of a target in the slice, beside what is kept
LONG = 300.0  # seconds of a target in the long run
LARGEST_CORPUS = 200 * 1024  # bytes in all


@pytest.mark.parametrize("name", TARGETS)
def test_bytes_are_taken_or_refused(name: str) -> None:
    fuzzer = Fuzzer(name, seed=0)
    fuzzer.run(cases=SOME + len(fuzzer.corpus), seconds=LONG, guided=False)
    assert fuzzer.crashes == {} and fuzzer.cases >= SOME


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_bytes_that_lead_to_new_code_are_taken_or_refused(name: str) -> None:
    fuzzer = Fuzzer(name, seed=1)
    fuzzer.run(cases=10**9, seconds=LONG, guided=True)
    assert fuzzer.crashes == {} and fuzzer.new


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert max(sizes, default=0) <= MOST and sum(sizes) <= LARGEST_CORPUS
    names = {name.replace(" ", "-") for name in TARGETS}
    assert {path.name for path in CORPUS.iterdir()} <= names


@pytest.mark.parametrize("error", [ValueError, KeyError])
def test_what_is_no_refusal_is_a_crash(error: type[Exception]) -> None:
    """And what leads to new code is kept."""
    fuzzer = Fuzzer("prompt", seed=0)

    def take(data: bytes) -> None:
        if data[:1] != b"{":
            raise error("x")

    fuzzer.target = fuzzer.target._replace(take=take)
    fuzzer.run(cases=300, seconds=LONG, guided=True)
    assert bool(fuzzer.crashes) == (error is KeyError)


def test_coverage_sees_the_projects_own_lines(tmp_path: Path) -> None:
    fuzzer = Fuzzer("toml", seed=0)
    fuzzer.run(cases=400, seconds=LONG, guided=True)
    assert fuzzer.new and all(len(data) <= MOST for data in fuzzer.new)
