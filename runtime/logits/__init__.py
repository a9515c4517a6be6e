"""Logits processors in numpy: penalties, masks, warpers, constraints and softmax."""
