"""Generated texts: their end tokens, and their text piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeseq.runtime.text.detokenizer import Detokenizer


def choose_end_token(texts: Sequence[Sequence[int]]) -> int:
    """Return the token that ends the most of the texts at different steps, but not all of them."""

    def ends(token: int) -> set[int]:
        return {text.index(token) for text in texts if token in text}

    tokens = {token for text in texts for token in text}
    some = [t for t in sorted(tokens) if any(t not in text for text in texts)]
    return max(some, key=lambda token: len(ends(token)))


def cut(text: list[int], end_token: int) -> list[int]:
    """Return the text up to its first end token, that one included."""
    return text[: text.index(end_token) + 1] if end_token in text else text


def streamed(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of ids that a detokenizer is given one by one."""
    detokenizer = Detokenizer(tokenizer)
    return "".join([*map(detokenizer.push, ids), detokenizer.finish()])
