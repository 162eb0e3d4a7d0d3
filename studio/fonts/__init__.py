"""The font that comes along, for letters that Pillow's own lacks; its licence lies beside it."""
