"""Rows of files, read one after another: plain text, JSON Lines, CSV, TSV and Parquet."""
