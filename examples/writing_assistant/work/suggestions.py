"""What a decoder-only model does in the app: continue a text, and name probable next words."""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import aclosing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeseq.runtime import Model

from .worker import Job

# The tokenizer would read a text of megabytes at each pause. No model reads as much: of a longer
# text it gets the end. The beginning moves in steps, so that the session's prefix cache stays
# valid between two steps.
LONGEST_TEXT = 24_000  # characters
STEP = 8_000
NEXT_WORDS = 8


class Suggested(NamedTuple):
    """A finished suggestion."""

    text: str
    tokens_per_s: float | None  # None: there was only one token


class Writer:
    """A model that continues texts, with its sessions. Only the worker's thread uses it.

    A session serves one call at a time, so each has a lock. Next words have a session of their
    own: their limit of tokens differs, and so does the place where a long text is cut.
    """

    def __init__(self, model: Model, key: str) -> None:
        self.key = key
        self.model = model
        self._session, self._session_lock = model.session(), asyncio.Lock()
        self._next_session, self._next_lock = model.session(), asyncio.Lock()
        self.lock = asyncio.Lock()  # of choices, which need no session
        tokens = range(model.bundle.manifest.dimensions.vocabulary)
        self._begins_a_word = np.array(
            [bool(re.match(r" [^\s]", model.tokenizer.decode([token]))) for token in tokens]
        )

    async def suggest(self, job: Job, text: str, options: dict[str, Any]) -> Suggested | None:
        """Send a continuation of ``text`` piece by piece. None: the job was cancelled."""
        prompt = end_of(text)
        bare = prompt.rstrip(" ")
        waits_for_word = bare != prompt and bool(self._begins_a_word.any())
        if waits_for_word:  # the space belongs to the next token
            options = {**options, "logits_processor": self._FirstWord(self._begins_a_word)}
        async with self._session_lock:
            if job.cancelled.is_set() or not bare.strip():
                return None
            parts: list[str] = []
            stream = self._session.astream(
                bare if waits_for_word else prompt, cancel=job.cancelled, **options
            )
            async with aclosing(stream):
                async for piece in stream:
                    new = piece.removeprefix(" ") if waits_for_word and not parts else piece
                    parts.append(new)
                    if new:
                        job.send(new)
        result = stream.result
        if result is None or job.cancelled.is_set():
            return None
        seconds = result.timings.total_s - result.timings.first_token_s
        rate = (result.generated_tokens - 1) / seconds if seconds > 0 else None
        return Suggested("".join(parts), rate)

    async def next_words(self, job: Job, text: str) -> list[tuple[str, float]]:
        """Return the most probable next tokens after ``text`` with their probabilities."""
        prompt = end_of(text).rstrip(" ")
        async with self._next_lock:
            if job.cancelled.is_set() or not prompt.strip():
                return []
            [result] = await asyncio.to_thread(
                self._next_session.generate,
                prompt,
                max_new_tokens=1,
                do_sample=False,
                logprobs=NEXT_WORDS,
                truncation="sliding",
                cancel=job.cancelled,
            )
        if not result.top_logprobs:  # it was cancelled
            return []
        decode = self.model.tokenizer.decode
        return [(decode([token]), math.exp(value)) for token, value in result.top_logprobs[0]]

    async def close(self) -> None:
        """Free the memory, once no call is under way."""
        async with self._session_lock, self._next_lock, self.lock:
            self._session.close()
            self._next_session.close()
            self.model.close()

    class _FirstWord:
        """A logits processor: the first token begins a word."""

        def __init__(self, allowed: NDArray[np.bool_]) -> None:
            self._allowed = allowed
            self._is_first = True

        def __call__(self, token_ids: Any, logits: NDArray[np.float32]) -> NDArray[np.float32]:
            if not self._is_first:
                return logits
            self._is_first = False
            allowed = np.zeros(len(logits), bool)
            allowed[: len(self._allowed)] = self._allowed[: len(logits)]
            return np.where(allowed, logits, np.float32(-np.inf))


def end_of(text: str) -> str:
    """Return the part of a text that goes to the tokenizer."""
    excess = len(text) - LONGEST_TEXT
    return text if excess <= 0 else text[-(-excess // STEP) * STEP :]
