"""Model families that can be exported, one module or more for each."""
