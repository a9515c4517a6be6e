"""The side panel: probable next words, rewriting a selection, and choices between labels."""
