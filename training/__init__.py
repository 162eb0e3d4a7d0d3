"""Style Studio's training library and headless command.

Imports no gradio and nothing of studio/.
"""

import os
import sys

from training import openmp

__version__ = "0.1.0"

# Both before any module loads torch. What an Apple GPU cannot do yet is done by the CPU, and torch
# says so; without this it ends the training
openmp.bound_spinning()
if sys.platform == "darwin":
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
