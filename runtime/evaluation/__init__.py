"""Quality of a model: cross-entropy, perplexity, error rates and comparison with a reference."""
