"""Single images: what was asked for, the process that draws them, and what it drew."""
