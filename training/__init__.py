"""Style Studio's training library and headless command.

Imports no gradio and nothing of studio/.
"""

__version__ = "0.1.0"
