"""LoRA layers: for training one style, for training several, for drawing."""
