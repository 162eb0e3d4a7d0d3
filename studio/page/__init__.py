"""The page: tabs, their handlers and their HTML."""
