"""Prompt lookup decoding: greedy search that guesses tokens by looking them up in the text.

The guess is a copy of the tokens after the previous occurrence of the text's last n-gram. The
decoder reads all guessed tokens at once. The search keeps the tokens that greedy search would have
chosen, up to the first other one, so the ids are the same as with greedy search. Source: Prompt
Lookup Decoding, https://github.com/apoorvumang/prompt-lookup-decoding, in Transformers
``prompt_lookup_num_tokens``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..decoder import Logits
from ..logits.processors import Processor, Prompt, Rows
from ..request.options import DEFAULT_NGRAM, GenerationOptions
from ..results import FinishReason
from .greedy_and_sampling import SequenceState, most_probable
from .loop import Found, NewToken, StepResult
from .stopping import Stopping

BORDER = -1  # between a source and a text; it is not a token, so no guess crosses it
FIRST_GUESS = 4  # tokens of the first guess
LONGEST_PAUSE = 16  # limit of steps without a guess, after many wrong guesses


class LookupSearch:
    """Prompt lookup decoding of one text."""

    def __init__(
        self,
        prompt: Prompt,
        options: GenerationOptions,
        processors: Sequence[Processor],
        stopping: Stopping,
    ) -> None:
        assert options.prompt_lookup_num_tokens is not None
        self._options = options
        self._processors = processors
        self._stopping = stopping
        self._text = SequenceState(0, 0, prompt, options, stopping)
        source = () if prompt.source is prompt.start else (*prompt.source, BORDER)
        self._index = NgramIndex(
            [*source, *prompt.start], options.max_matching_ngram_size or DEFAULT_NGRAM
        )
        self._guess: Sequence[int] = ()
        self._pace = Pace(options.prompt_lookup_num_tokens)

    def choose(self, logits: Logits, interrupt: FinishReason | None = None) -> StepResult:
        """Choose the next token, and the guessed tokens after it that are right."""
        new_tokens: list[NewToken] = []
        for place, token in enumerate(self._picked(logits)):
            new = self._text.append(token, self._stopping, interrupt)
            new_tokens.append(new)
            if new.finish_reason is not None:
                return StepResult((), (), new_tokens, len(self._guess) - len(new_tokens) + 1)
            self._index.append(token)
            if place < len(self._guess) and token != self._guess[place]:
                break
        right = len(new_tokens) - 1
        rejected = len(self._guess) - right
        self._pace.note(len(self._guess), right)
        room = self._text.limit - self._text.new_tokens - 1  # the last token is never read
        self._guess = self._index.following(min(self._pace.next_guess(), room))
        return StepResult([new_tokens[-1].token, *self._guess], [0], new_tokens, rejected)

    def results(self) -> Sequence[Found]:
        """Return the text."""
        return [self._text.found()]

    def _picked(self, logits: Logits) -> Iterator[int]:
        """Yield the most probable token of each row.

        Processors need all tokens before a row, so a row is processed once these are known.
        """
        if not self._processors and self._options.logprobs is None:
            yield from most_probable(logits).tolist()
            return
        for row in logits:
            raw = row.copy()
            rows = Rows([self._text.tokens], [0])
            for process in self._processors:
                process(row[None], rows)
            [token] = most_probable(row[None]).tolist()
            self._text.record(raw, token)
            yield token


class NgramIndex:
    """A text, and the position after the last occurrence of each n-gram in it."""

    def __init__(self, ids: Sequence[int], longest: int) -> None:
        self._ids: list[int] = []
        self._sizes = range(longest, 0, -1)
        self._after: dict[tuple[int, ...], int] = {}
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Append ``token`` to the text."""
        end = len(self._ids)
        for size in self._sizes:
            if size <= end:
                self._after[tuple(self._ids[end - size :])] = end
        self._ids.append(token)

    def following(self, count: int) -> list[int]:
        """Return up to ``count`` tokens after the last occurrence of the text's last n-gram.

        The longest n-gram with an earlier occurrence is used. If the tokens reach the end of the
        text, they are repeated.
        """
        ids = self._ids
        end = len(ids)
        for size in self._sizes:
            begin = self._after.get(tuple(ids[end - size :])) if size <= end else None
            if begin is not None:
                period = end - begin
                found = [ids[begin + i % period] for i in range(count)]
                return found[: found.index(BORDER)] if BORDER in found else found
        return []


class Pace:
    """The number of tokens to guess: it grows with right guesses, and wrong guesses cause pauses.

    Reading wrong guesses takes time that greedy search does not take.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._length = min(FIRST_GUESS, longest)
        self._misses = 0
        self._pause = 0

    def note(self, guessed: int, right: int) -> None:
        """Adjust to a step in which ``right`` of ``guessed`` tokens were right.

        A step without a guess only shortens the pause.
        """
        if not guessed:
            self._pause = max(self._pause - 1, 0)
        elif right == guessed:
            self._length = min(2 * self._length, self._longest)
            self._misses = 0
        elif right:
            self._length = right
            self._misses = 0
        else:
            self._length = max(self._length // 2, 1)
            self._misses += 1
            self._pause = min(2 ** (self._misses - 1), LONGEST_PAUSE) - 1

    def next_guess(self) -> int:
        """Return the number of tokens to guess in the next step."""
        return 0 if self._pause else self._length
