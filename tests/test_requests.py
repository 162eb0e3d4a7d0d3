"""Pictures and checkpoints asked for while a run goes on.

They come after the next update, and what is learnt stays the same to the bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import SpaceError
from training.events import Event, Previewed, Saved, Stepped, Warned
from training.trainer.loop import train
from training.trainer.requests import send_request, taken


@pytest.fixture
def config(base_folder: Path, tmp_path: Path) -> RunConfig:
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
            tmp_path / "pictures" / f"{i}.png"
        )
    return from_mapping(
        {
            "base": {"model": str(base_folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(tmp_path / "pictures"), "trigger": "sks"},
            "adapter": {"rank": 2},
            "optim": {"steps": 5, "batch_size": 1, "unet_lr": 1e-3},
            "preview": {"every": 5, "steps": 1, "prompts": ["a cat"]},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "plain", "every": 0},
        }
    )


def named(config: RunConfig, name: str, every: int = 5) -> RunConfig:
    parts = {
        "save": config.save.model_copy(update={"name": name}),
        "preview": config.preview.model_copy(update={"every": every}),
    }
    return config.model_copy(update=parts)


def trained(config: RunConfig, requests: dict[int, list[str]]) -> list[Event]:
    """All events of a run; a request is sent after the update of its number."""
    events = []
    for event in train(config):
        events.append(event)
        if isinstance(event, Stepped):
            for what in requests.get(event.step, []):
                send_request(config.run_folder, what)
    return events


def test_requests_are_met_between_updates_and_change_nothing(config: RunConfig) -> None:
    plain, asked = named(config, "plain"), named(config, "asked")
    trained(plain, {})
    events = trained(asked, {2: ["draw", "save"], 3: ["draw"]})
    order = [
        (type(e).__name__, e.step) for e in events if isinstance(e, Stepped | Previewed | Saved)
    ]
    at = order.index(("Stepped", 2))
    assert set(order[at + 1 : at + 3]) == {("Previewed", 2), ("Saved", 2)} and order[at + 3] == (
        "Stepped",
        3,
    )
    assert ("Previewed", 3) in order and order.count(("Saved", 2)) == 1
    assert (asked.run_folder / "previews" / "step-0000002-0.png").is_file()
    from safetensors.numpy import load_file

    a, b = (load_file(c.run_folder / f"{c.save.name}.safetensors") for c in (plain, asked))
    assert a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def test_nothing_can_be_drawn_where_nothing_was_to_be(config: RunConfig) -> None:
    events = trained(named(config, "blind", every=0), {1: ["draw"]})
    assert any(isinstance(e, Warned) and "preview.every" in e.message for e in events)
    assert not any(isinstance(e, Previewed) for e in events)


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    send_request(tmp_path, "save")
    send_request(tmp_path, "save")
    assert taken(tmp_path) == ["save"] and taken(tmp_path) == []
    (tmp_path / "wishes" / "anything else").touch()
    assert taken(tmp_path) == []


def test_a_request_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "wishes").write_text("in the way")
    with pytest.raises(SpaceError, match="could not be written"):
        send_request(tmp_path, "draw")
