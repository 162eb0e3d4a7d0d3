"""Style Studio's training library and headless command.

Imports no gradio and nothing of studio/.
"""

from training import openmp

__version__ = "0.1.0"

openmp.bound_spinning()  # before any module loads torch
