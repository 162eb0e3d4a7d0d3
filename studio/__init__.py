"""The page: data, training and comparison in a browser. Imports training, never the reverse."""
