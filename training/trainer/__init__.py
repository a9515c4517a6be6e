"""Training itself: Transformers' trainer with edgeseq's optimizer, checkpoints and figures."""
