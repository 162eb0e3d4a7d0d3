"""Trainers that are ready for updates, for tests that look inside."""

from __future__ import annotations

from training.adapters.multi_lora import SharedBase
from training.trainer import saving
from training.trainer.plan import Plan
from training.trainer.setup import set_up, without_notes
from training.trainer.trainer import Trainer


def ready(plan: Plan, shared_base: SharedBase | None = None, *, trial: bool = False) -> Trainer:
    """Set a trainer up, without what is said meanwhile; trial: nothing is gone on with."""
    trainer = without_notes(set_up(plan, shared_base, trial=trial))
    if not trial:
        list(saving.go_on(trainer))
    return trainer
