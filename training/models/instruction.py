"""The instruction that Qwen-Image and Krea 2 are both given their captions in."""

from __future__ import annotations

BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
TOKENS_BEFORE, TOKENS_AFTER = 34, 5
