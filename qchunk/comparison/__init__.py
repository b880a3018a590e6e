"""Lists of runs that are compared, and what they hold equal."""
