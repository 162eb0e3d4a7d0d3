"""What a run would take, measured with two real updates, as one JSON object:
`python -m studio.processes.plan_worker RUN.toml`. Loads torch, so a process of its own.

{"rows": {name: text}, "notes": [text]}, or {"error": text} for what the training itself would
refuse. With --memory nothing is loaded or measured: {"needed": GiB, "room": GiB, "storage": text or
null, "side": px}, as training.trainer.base_storage.forecast predicts it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from training.cli.dry_run import measured
from training.config.loading import from_mapping, read_toml
from training.config.schema import RunConfig
from training.errors import StudioError
from training.models import base_files
from training.runtime.device import choose
from training.trainer.base_storage import forecast


def main() -> int:
    began, answer = time.time(), dict[str, Any]()
    try:
        config = from_mapping(read_toml(Path(sys.argv[1])))
        if "--memory" in sys.argv:
            answer = _forecast(config)
        else:
            answer["rows"], answer["notes"] = measured(config, began)
    except StudioError as error:
        answer = {"error": str(error)}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    return 0


def _forecast(config: RunConfig) -> dict[str, Any]:
    files = base_files.find(config.base.model, config.base.rest)
    place = choose(config.base.device, config.base.dtype)
    return forecast(config, files, place)._asdict()


if __name__ == "__main__":
    sys.exit(main())
