"""Every setting, declared once; how they are read from TOML and flags; presets."""
