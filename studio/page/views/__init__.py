"""What the tabs show, as HTML."""
