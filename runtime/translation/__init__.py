"""Translation of documents: the languages of a model, and texts sentence by sentence."""
