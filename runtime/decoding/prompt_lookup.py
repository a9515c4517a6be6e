"""Prompt-lookup decoding: greedy search that guesses tokens by looking them up in the text.

What followed the last occurrence of the text's last n-gram is a guess at what follows now. The
decoder reads the guessed tokens all at once, and greedy search keeps them as far as it would have
chosen them itself: the ids are those of greedy search. Source: Prompt Lookup Decoding,
https://github.com/apoorvumang/prompt-lookup-decoding, in Transformers ``prompt_lookup_num_tokens``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..decoder import Logits
from ..logits.processors import Processor, Prompt, Rows
from ..request.options import DEFAULT_NGRAM, GenerationOptions
from ..results import FinishReason
from .greedy_and_sampling import Text, most_probable
from .loop import Choice, Found, NewToken
from .stopping import Stopping

BORDER = -1  # between a source and a text: no token, so that no guess goes across it
FIRST_GUESS = 4  # tokens that are guessed at first
LONGEST_PAUSE = 16  # steps without a guess, after many that were wrong


class LookupSearch:
    """Greedy search on one text."""

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
        self._text = Text(0, 0, prompt, options, stopping)
        source = () if prompt.source is prompt.start else (*prompt.source, BORDER)
        self._index = NgramIndex(
            [*source, *prompt.start], options.max_matching_ngram_size or DEFAULT_NGRAM
        )
        self._guess: Sequence[int] = ()
        self._pace = Pace(options.prompt_lookup_num_tokens)

    def choose(self, logits: Logits, interrupt: FinishReason | None = None) -> Choice:
        """Decide on the token after the last one and, as far as the guess was right, more."""
        new_tokens: list[NewToken] = []
        for place, token in enumerate(self._picked(logits)):
            new = self._text.append(token, self._stopping, interrupt)
            new_tokens.append(new)
            if new.finish_reason is not None:
                return Choice((), (), new_tokens, len(self._guess) - len(new_tokens) + 1)
            self._index.append(token)
            if place < len(self._guess) and token != self._guess[place]:
                break
        right = len(new_tokens) - 1
        rejected = len(self._guess) - right
        self._pace.note(len(self._guess), right)
        room = self._text.limit - self._text.new_tokens - 1  # the last token is never read
        self._guess = self._index.following(min(self._pace.next_guess(), room))
        return Choice([new_tokens[-1].token, *self._guess], [0], new_tokens, rejected)

    def results(self) -> Sequence[Found]:
        """The text."""
        return [self._text.found()]

    def _picked(self, logits: Logits) -> Iterator[int]:
        """The most probable token of each row; a row is looked at when its text is known."""
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
    """A text, and what came after the last occurrence of each of its n-grams."""

    def __init__(self, ids: Sequence[int], longest: int) -> None:
        self._ids: list[int] = []
        self._sizes = range(longest, 0, -1)
        self._after: dict[tuple[int, ...], int] = {}
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Go on with ``token``."""
        end = len(self._ids)
        for size in self._sizes:
            if size <= end:
                self._after[tuple(self._ids[end - size :])] = end
        self._ids.append(token)

    def following(self, count: int) -> list[int]:
        """Up to ``count`` tokens that followed the longest n-gram that the text ends with.

        Where the text repeats itself to its end, so does the guess.
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
    """How many tokens to guess: more while guesses are right, none for a while if they are not.

    Reading guessed tokens that turn out wrong takes time that greedy search does not.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._length = min(FIRST_GUESS, longest)
        self._misses = 0
        self._pause = 0

    def note(self, guessed: int, right: int) -> None:
        """Learn from a guess; one of no tokens says nothing."""
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
        """How many tokens to guess now."""
        return 0 if self._pause else self._length
