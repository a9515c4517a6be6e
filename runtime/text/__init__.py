"""Text to token ids and back: tokenizers, streaming detokenization, stop strings."""
