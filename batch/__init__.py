"""Tasks on many rows: files of any size, in one process or several."""
