"""Model families and how a base is found and loaded."""
