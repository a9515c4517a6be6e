"""The answer to a request for texts: its JSON, or the chunks of its stream."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, ClassVar

from ..runtime.errors import EdgeseqError
from ..runtime.results import FinishReason, StreamEvent
from .errors import ApiError, api_error
from .generating import Generation
from .logprobs import TokenLogprobs
from .streams import DONE, comment, event

READING = "reading the prompt"


class Answer(ABC):
    """The answer to a request, in the form of one endpoint."""

    PREFIX: ClassVar[str]  # of its id
    OBJECT: ClassVar[str]
    CHUNK: ClassVar[str]  # the same for a chunk of a stream

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._served = generation.served
        self._id = f"{self.PREFIX}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    async def chunks(
        self, events: AsyncGenerator[tuple[int, StreamEvent] | None]
    ) -> AsyncGenerator[bytes]:
        """Yield the server-sent events of a stream."""
        call = self._generation.call
        count = len(self._generation.prompts) * call.n
        lengths, generated, is_read = [0] * count, 0, False
        tokens = [self._new_tokens(index) for index in range(count)]
        async for choice in self._opening(count):
            yield self._chunk(choice)
        yield comment(READING)
        try:
            async with aclosing(events):
                async for found in events:
                    if found is None:
                        yield comment("generating" if is_read else READING)
                        continue
                    is_read = True
                    index, new = found
                    lengths[index] += len(new.text)
                    generated += len(new.token_ids)
                    if (kept := tokens[index]) is not None:
                        kept.extend(new.token_ids, new.logprobs or (), new.top_logprobs or ())
                    if new.text or new.finish_reason is not None:
                        yield self._chunk(
                            self._piece(index, new.text, new.finish_reason, kept, lengths[index])
                        )
        except (ApiError, EdgeseqError) as error:
            known = error if isinstance(error, ApiError) else api_error(error)
            yield event(known.body)
            return
        if call.include_usage:
            yield event({**self._head(self.CHUNK, []), "usage": self._usage(generated)})
        yield DONE

    @abstractmethod
    def _new_tokens(self, index: int) -> TokenLogprobs | None:
        """Return the log-probabilities of a choice, still empty; None if they are not asked."""

    @abstractmethod
    def _opening(self, count: int) -> AsyncIterator[dict[str, Any]]:
        """Yield the choices that a stream of ``count`` texts begins with."""

    @abstractmethod
    def _piece(
        self,
        index: int,
        text: str,
        reason: FinishReason | None,
        tokens: TokenLogprobs | None,
        length: int,
    ) -> dict[str, Any]:
        """Return a choice with a piece of its text, which now has ``length`` characters."""

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        head = self._head(self.CHUNK, [choice])
        return event({**head, "usage": None} if self._generation.call.include_usage else head)

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._served.name,
            "choices": choices,
        }

    def _usage(self, generated: int) -> dict[str, int]:
        return usage(sum(map(len, self._generation.prompts)), generated)


def finish_reason(reason: FinishReason | None) -> str | None:
    """Return OpenAI's word for the end of a text: "stop" or "length"."""
    if reason is None:
        return None
    return "stop" if reason in ("eos", "stop") else "length"


def usage(prompt: int, generated: int) -> dict[str, int]:
    """Return the numbers of tokens in OpenAI's form."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
    }
