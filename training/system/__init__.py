"""What operating systems do differently, in one place. Imports nothing of the project."""
