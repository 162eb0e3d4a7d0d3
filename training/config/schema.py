"""Every setting of a run, declared once: bounds, unit and one sentence stand on the field.

The TOML file, the command's flags, the page's form and docs/settings.md are made from these
models, which lie beside this module by section. Knows nothing of torch.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from pydantic import Field

from training.config.input_sections import Base, Data, Prior
from training.config.output_sections import Preview, Report, Save
from training.config.section import Section
from training.config.training_sections import Adapter, Optim


class RunConfig(Section):
    """Everything that decides a run.

    On a CPU, equal configs and equal pictures give equal styles bit for bit.
    """

    base: Base = Field(default_factory=Base)
    data: Data = Field(default_factory=Data)
    prior: Prior = Field(default_factory=Prior)
    adapter: Adapter = Field(default_factory=Adapter)
    optim: Optim = Field(default_factory=Optim)
    preview: Preview = Field(default_factory=Preview)
    report: Report = Field(default_factory=Report)
    save: Save = Field(default_factory=Save)

    @property
    def run_folder(self) -> Path:
        """Absolute, symbolic links followed: what lies in it can be named relative to it."""
        return (Path(self.save.folder).expanduser() / self.save.name).resolve()


@functools.cache
def json_schema() -> str:
    """The JSON schema (draft 2020-12) of a run's settings, as editors of TOML take it."""
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(made | RunConfig.model_json_schema(), indent=1)
