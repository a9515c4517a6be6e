"""Quality of a model: cross-entropy, perplexity, error rates, comparison with a reference."""
