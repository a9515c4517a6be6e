"""Stop strings: texts that end a generation, found in its text across the borders of tokens.

`StopMatcher` says when to stop, `StopFilter` and `cut` take the stop string, and what follows it,
out of the text. They know tokens only through the detokenizer, and nothing of models or options.
No stop string is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

from .detokenizer import Detokenizer


class StopMatcher:
    """Follows the new text of one sequence and says when a stop string is in it.

    New is what the `detokenizer` gives out from here on: it may have seen a context already, whose
    text does not count. The matcher keeps only as many characters as the next token may complete
    to a stop string. A token costs more the longer the text only if the detokenizer holds back all
    of it, as it does for a decoder of an unknown kind.
    """

    def __init__(self, detokenizer: Detokenizer, stop_strings: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stop_strings = tuple(stop_strings)
        self._tail_size = _longest(stop_strings) - 1
        self._tail = ""
        self._is_found = False

    def push(self, token: int) -> bool:
        """Take the next id; True once a stop string is complete in the new text.

        Text counts that is still held back, because ending the sequence now gives it out: waiting
        would cost one more token. But not U+FFFD at its end, which stands for a character that has
        begun: were it taken for text, a stop string "\\ufffd" would break the next emoji in two. It
        counts once it is certain that no character comes of the bytes.
        """
        text = self._tail + self._detokenizer.push(token)
        seen = text + self._detokenizer.held().rstrip("\ufffd")
        self._is_found = self._is_found or any(stop in seen for stop in self._stop_strings)
        self._tail = text[max(len(text) - self._tail_size, 0) :]
        return self._is_found

    def fork(self) -> StopMatcher:
        """Return a copy from which the sequence can go on in another way."""
        twin = StopMatcher(self._detokenizer.fork(), self._stop_strings)
        twin._tail, twin._is_found = self._tail, self._is_found
        return twin


class StopFilter:
    """Pieces of text on their way to a reader, none of which holds a part of a stop string.

    For any pieces, the results of `push` and the one of `finish` join to `cut` of them joined.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stop_strings = tuple(stop_strings)
        self._starts = {stop[:size] for stop in stop_strings for size in range(1, len(stop))}
        self._longest_start = _longest(stop_strings) - 1
        self._held = ""
        self._has_stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece and return the text that is certain to be before any stop string.

        Nothing comes after a stop string. It is no more than a candidate while a longer one that
        starts before it may follow, as "abc" may where the text ends in "ab" and "b" is another.
        """
        if self._has_stopped:
            return ""
        text = self._held + piece
        end = _end(text, self._stop_strings)
        start = self._start_of_candidate(text)
        self._has_stopped = end <= start and end < len(text)
        self._held = text[start:]
        return text[: min(start, end)]

    def finish(self) -> str:
        """Return what was held back and turned out to be no stop string; nothing may follow."""
        return "" if self._has_stopped else cut(self._held, self._stop_strings)

    def _start_of_candidate(self, text: str) -> int:
        """Where the longest end of `text` begins that could become a stop string."""
        first = max(len(text) - self._longest_start, 0)
        places = range(first, len(text))
        return next((place for place in places if text[place:] in self._starts), len(text))


def cut(text: str, stop_strings: Sequence[str]) -> str:
    """Return `text` up to the first place where a stop string starts, all of it if none does."""
    return text[: _end(text, stop_strings)]


def _end(text: str, stop_strings: Sequence[str]) -> int:
    places = (text.find(stop) for stop in stop_strings)
    return min((place for place in places if place >= 0), default=len(text))


def _longest(stop_strings: Sequence[str]) -> int:
    return max(map(len, stop_strings), default=1)
