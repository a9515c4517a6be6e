"""Stop strings: strings that end a text, also if they begin or end within a token.

``StopMatcher`` decides when to stop. ``StopFilter``, ``PieceStream`` and ``cut`` remove the stop
string and all text after it. A stop string is never empty: the options check that.
"""

from __future__ import annotations

from collections.abc import Sequence

from .detokenizer import Detokenizer


class StopMatcher:
    """A matcher that reads the new text of one sequence and finds stop strings in it.

    The new text is the text that the ``detokenizer`` returns from now on. Text of earlier tokens,
    such as ``decoder_input_ids``, does not count. The matcher keeps only as many characters as may
    belong to a stop string that the next token completes. The time per token depends on the length
    of the text only if the detokenizer holds back all text, as for an unknown decoder.
    """

    def __init__(self, detokenizer: Detokenizer, stop_strings: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stop_strings = tuple(stop_strings)
        self._tail_size = _longest(stop_strings) - 1
        self._tail = ""
        self._is_found = False

    def push(self, token: int) -> bool:
        """Take the next id; return whether the new text contains a stop string.

        Text that is still held back counts, because it becomes final if the sequence ends now;
        waiting would cost one more token. U+FFFD at its end does not count, because it may be the
        first bytes of a character: a stop string "\\ufffd" would otherwise match the next emoji. It
        counts once it is certain that the bytes are not a character.
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

    For any pieces, the joined results of ``push`` and ``finish`` equal ``cut`` of the joined
    pieces.
    """

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stop_strings = tuple(stop_strings)
        self._longest_start = _longest(stop_strings) - 1
        self._held = ""
        self._has_stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece; return the text that is certain to be before any stop string.

        After a stop string the result is empty. A stop string is not final while a longer stop
        string may have started before it. Example: with the stop strings "abc" and "b", a text that
        ends in "ab" may still become "abc".
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
        """Return the text that is held back, up to a stop string; do not push pieces after this."""
        return "" if self._has_stopped else cut(self._held, self._stop_strings)

    def _start_of_candidate(self, text: str) -> int:
        """Return where the longest tail of ``text`` starts that may become a stop string.

        Return ``len(text)`` if no tail may.
        """
        first = max(len(text) - self._longest_start, 0)
        for start in range(first, len(text)):
            tail = text[start:]
            if any(len(tail) < len(stop) and stop.startswith(tail) for stop in self._stop_strings):
                return start
        return len(text)


class PieceStream:
    """The new text of one sequence of tokens, up to a stop string, in pieces that are certain.

    The joined pieces equal ``cut`` of the text of all tokens after those that ``detokenizer`` has.
    """

    def __init__(self, detokenizer: Detokenizer, stop_strings: Sequence[str]) -> None:
        self.tokens = 0  # number of new tokens
        self._detokenizer = detokenizer
        self._stops = StopFilter(stop_strings)

    def push(self, token: int) -> str:
        """Append an id; return the text that has become certain, often ""."""
        self.tokens += 1
        return self._stops.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """Return the text that is still held back; do not push ids after this."""
        return self._stops.push(self._detokenizer.finish()) + self._stops.finish()


def cut(text: str, stop_strings: Sequence[str]) -> str:
    """Return ``text`` up to the start of the first stop string, or all of it if there is none."""
    return text[: _end(text, stop_strings)]


def _end(text: str, stop_strings: Sequence[str]) -> int:
    starts = (text.find(stop) for stop in stop_strings)
    return min((start for start in starts if start >= 0), default=len(text))


def _longest(stop_strings: Sequence[str]) -> int:
    return max(map(len, stop_strings), default=1)
