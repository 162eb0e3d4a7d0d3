"""Who may ask the page what, and how much."""
