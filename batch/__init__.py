"""Tasks on many rows: files of any size."""
