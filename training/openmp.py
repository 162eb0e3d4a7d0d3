"""How OpenMP's threads wait for each other: they spin briefly, then sleep.

torch's threads meet at the end of every operation. As libgomp (GNU OpenMP) is set up, a thread that
is there first spins for milliseconds. On a busy machine it burns the time slice that the others
need to arrive, and an update takes many times as long. A short spin costs nothing on an idle
machine. How long a thread waits changes no result.
"""

from __future__ import annotations

import os

# rounds of libgomp's waiting loop before a thread sleeps; its own default is 300 000
SPINS = 10_000
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # variables by which a user decides instead


def bound_spinning() -> None:
    """Bound the spinning of this process and its children, unless the user has decided.

    libgomp reads the variable once, when torch loads it, so this must come before torch's import.
    """
    if not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
