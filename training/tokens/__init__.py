"""From text to tokens: new tokenizers, and examples as token ids."""
