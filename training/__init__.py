"""Style Studio's training library and headless command.

Imports no gradio and nothing of studio/.
"""

import os
import sys

if sys.version_info < (3, 11) or sys.maxsize < 2**32:
    bits = "64" if sys.maxsize > 2**32 else "32"
    # Written so that older ones can read it, too
    found = "This is Python " + sys.version.split()[0] + " of " + bits + " bits: " + sys.executable
    sys.stderr.write("Style Studio needs Python 3.11 or newer, of 64 bits. " + found + "\n")
    sys.stderr.write("Install one from python.org, or run install.sh or install.ps1.\n")
    sys.exit(2)

from training import openmp
from training.system import python_build

if lacks := python_build.lacking():
    sys.stderr.write(
        f"This Python was built without {lacks}, which Style Studio needs: {sys.executable}. "
        "Install another from python.org, or run install.sh; on Windows take one for Windows or "
        "WSL, not one of Cygwin or MSYS2.\n"
    )
    sys.exit(2)

__version__ = "0.1.0"

# Both before any module loads torch. What an Apple GPU cannot do yet is done by the CPU, and torch
# says so; without this it ends the training
openmp.bound_spinning()
if sys.platform == "darwin":
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
