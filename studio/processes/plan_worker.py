"""What a run would take, measured with two real updates, as one JSON object:
`python -m studio.processes.plan_worker RUN.toml`. Loads torch, so a process of its own.

{"rows": {name: text}, "notes": [text]}, or {"error": text} for what the training itself would
refuse.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from training.cli.dry_run import measured
from training.config.loading import from_mapping, read_toml
from training.errors import StudioError


def main() -> int:
    began = time.time()
    try:
        rows, notes = measured(from_mapping(read_toml(Path(sys.argv[1]))), began)
    except StudioError as error:
        answer = {"error": str(error)}
    else:
        answer = {"rows": rows, "notes": notes}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
