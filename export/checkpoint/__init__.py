"""Hugging Face checkpoints: finding one, loading its model, converting its tokenizer."""
