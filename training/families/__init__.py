"""Model families: each a record and two functions. The only place that may ask which family a base is of."""
