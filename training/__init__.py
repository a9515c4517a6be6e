"""Train or fine-tune a model from a template and files of data; needs the extra ``train``."""
