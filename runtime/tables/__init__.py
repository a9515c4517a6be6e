"""Rows of files: plain text, JSON Lines, CSV, TSV and Parquet, read one after another."""

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
