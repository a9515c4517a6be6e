"""Stop strings: strings that end a generation, found in its text across token borders.

``StopMatcher`` says when to stop. ``StopFilter`` and ``cut`` remove the stop string and all text
after it. They see tokens only through the detokenizer, and know nothing of models or options. No
stop string is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

from .detokenizer import Detokenizer


class StopMatcher:
    """A matcher that follows the new text of one sequence and finds stop strings in it.

    The new text is the text that the ``detokenizer`` returns from now on. Text of earlier tokens,
    such as a context, does not count. The matcher keeps only as many characters as the next token
    may complete to a stop string. The time for a token depends on the length of the text only if
    the detokenizer holds back all text, as it does for an unknown decoder.
    """

    def __init__(self, detokenizer: Detokenizer, stop_strings: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stop_strings = tuple(stop_strings)
        self._tail_size = _longest(stop_strings) - 1
        self._tail = ""
        self._is_found = False

    def push(self, token: int) -> bool:
        """Take the next id; return whether the new text contains a stop string.

        Text that is still held back counts, because ending the sequence now releases it: waiting
        would cost one more token. U+FFFD at its end does not count, because it stands for the first
        bytes of a character: a stop string "\\ufffd" would otherwise cut the next emoji in two. It
        counts once it is certain that the bytes are no character.
        """
        text = self._tail + self._detokenizer.push(token)
        seen = text + self._detokenizer.held().rstrip("\ufffd")
        self._is_found = self._is_found or any(stop in seen for stop in self._stop_strings)
        self._tail = text[max(len(text) - self._tail_size, 0) :]
        return self._is_found

    def fork(self) -> StopMatcher:
        """Return an independent copy."""
        twin = StopMatcher(self._detokenizer.fork(), self._stop_strings)
        twin._tail, twin._is_found = self._tail, self._is_found
        return twin


class StopFilter:
    """A filter for pieces of text that never returns a part of a stop string.

    For any pieces, the results of ``push`` and ``finish`` join to ``cut`` of the joined pieces.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stop_strings = tuple(stop_strings)
        self._starts = {stop[:size] for stop in stop_strings for size in range(1, len(stop))}
        self._longest_start = _longest(stop_strings) - 1
        self._held = ""
        self._has_stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece; return the text that is certain to be before any stop string.

        After a stop string the result is empty. A stop string is held back as a candidate while a
        longer one that starts before it may still follow: for the stop strings "abc" and "b", while
        the text ends in "ab".
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
        """Return the held back text up to a stop string; no piece may be pushed after this."""
        return "" if self._has_stopped else cut(self._held, self._stop_strings)

    def _start_of_candidate(self, text: str) -> int:
        """Return where the longest tail of ``text`` starts that may become a stop string.

        ``len(text)`` if there is none.
        """
        first = max(len(text) - self._longest_start, 0)
        places = range(first, len(text))
        return next((place for place in places if text[place:] in self._starts), len(text))


def cut(text: str, stop_strings: Sequence[str]) -> str:
    """Return ``text`` up to the start of the first stop string, or all of it if there is none."""
    return text[: _end(text, stop_strings)]


def _end(text: str, stop_strings: Sequence[str]) -> int:
    places = (text.find(stop) for stop in stop_strings)
    return min((place for place in places if place >= 0), default=len(text))


def _longest(stop_strings: Sequence[str]) -> int:
    return max(map(len, stop_strings), default=1)
