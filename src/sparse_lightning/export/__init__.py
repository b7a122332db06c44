"""A trained sparse model in other forms, and its size."""
