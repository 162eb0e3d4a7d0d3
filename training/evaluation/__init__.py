"""How good a style is: metrics and the report."""
