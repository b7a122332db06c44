"""One run and its record."""
