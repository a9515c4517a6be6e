"""Constrained decoding with a JSON Schema, a regular expression or a grammar.

The package ``llguidance`` computes which tokens are allowed next, from the bytes that each token
adds to a text (``text/token_bytes.py``). This module does not depend on models, search or other
options.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..decoder import Logits, TokenIds
from ..errors import MissingPackageError, OptionError, reason
from ..text.byte_tokenizer import AnyTokenizer
from ..text.token_bytes import token_bytes_of

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_MATCHERS: Final = 256
"""The limit of kept states of texts. A text without a state is read again from its start."""

# Without this, llguidance allows only the tokenizer's own tokenization of text that must come next.
_ANY_SPELLING: Final = '\n%llguidance {"no_forcing": true}\n'
# The layout of `json.dumps`. If more whitespace were allowed, weak models would write only that.
_JSON_LAYOUT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_FORMS: Final = {
    "json_schema": "a JSON Schema (an object) of keywords that llguidance supports",
    "regex": "a regular expression without look-around, word boundaries and back-references",
    "grammar": "a grammar in llguidance's Lark dialect",
}

_VOCABULARIES: Final[WeakKeyDictionary[AnyTokenizer, _Vocabulary]] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Vocabulary:
    """The bytes that each token id adds to a text, in the form that llguidance needs.

    llguidance numbers symbols instead of tokens. The symbols below ``size`` are the token ids. The
    symbol ``size`` is the end of the text. The symbol ``size + 1`` stands for all ids that add
    nothing as the first token of a text. After it there is a symbol for each id that adds different
    bytes as the first token than after another token.
    """

    size: int  # size of the model's vocabulary
    first: NDArray[np.intp]  # symbol of each id as a text's first token, (size,)
    symbols: LLTokenizer


class Guide:
    """The constraint of one generation, which decides which tokens are allowed next.

    Pass exactly one of these:

    - ``json_schema``, a dictionary or its JSON text: texts have the layout of ``json.dumps``,
      unless the schema has another layout at the key "x-guidance".
    - ``regex``: matches the whole text, in Rust's syntax; ``\\d`` is 0 to 9.
    - ``grammar``: in llguidance's dialect of Lark.

    The constraint applies to a text before the clean-up of spaces. Any tokenization of a matching
    text is allowed, without special tokens. Raises ``OptionError`` for a constraint that cannot be
    followed, without end-of-text ids, for a tokenizer with an unknown decoder, and for a vocabulary
    that cannot spell the start of any text; ``MissingPackageError`` without llguidance.
    """

    def __init__(
        self,
        tokenizer: AnyTokenizer,
        vocabulary: int,
        eos_token_ids: Sequence[int],
        *,
        json_schema: Any = None,
        regex: str | None = None,
        grammar: str | None = None,
    ) -> None:
        self._option, lark = _lark(json_schema, regex, grammar)
        self._ends = [token for token in set(eos_token_ids) if 0 <= token < vocabulary]
        if not self._ends:
            raise OptionError(f"{self._option} needs an end-of-text token: pass eos_token_id.")
        self._vocabulary = _vocabulary_of(tokenizer, vocabulary)
        self._first = self._vocabulary.first.copy()
        self._first[self._ends] = self._ends
        self._start = _start(self._vocabulary.symbols, self._option, lark)
        self._matchers: OrderedDict[tuple[bool, bytes], LLMatcher] = OrderedDict()
        self._dead_end: list[int] | None = None
        if np.all([self._blocked(self._start.deep_copy(), first) for first in (False, True)]):
            raise OptionError(self._describe([]))

    def filter(self, row: Logits, new_tokens: Sequence[int] | TokenIds, *, at_start: bool) -> None:
        """Set the logits of tokens that cannot follow the text to -inf.

        At a dead end, no token can follow, and all logits become -inf. ``row``: (vocabulary,),
        changed in place. ``new_tokens``: the text so far. ``at_start``: whether the first of them
        is the first token that is decoded, from which T5's decoder removes the leading space.
        """
        tokens = np.asarray(new_tokens, np.int64)
        blocked = self._blocked(self._matcher(tokens, at_start), at_start and not tokens.size)
        np.putmask(row, blocked, -np.inf)
        if self._dead_end is None and blocked.all():
            self._dead_end = self._symbols(tokens, at_start)

    def describe_dead_end(self) -> str:
        """Return why no token could follow the text at the first dead end; "" without dead end."""
        return "" if self._dead_end is None else self._describe(self._dead_end)

    def _matcher(self, tokens: TokenIds, at_start: bool) -> LLMatcher:
        """Return the state after ``tokens``, from a copy of the state before the last token."""
        key = (at_start, tokens.tobytes())
        matcher = self._matchers.get(key)
        if matcher is None:
            parent = self._matchers.get((at_start, tokens[:-1].tobytes()))
            added = tokens if parent is None else tokens[-1:]
            matcher = (self._start if parent is None else parent).deep_copy()
            matcher.consume_tokens(self._symbols(added, at_start and added.size == tokens.size))
            self._matchers[key] = matcher
            if len(self._matchers) > MOST_MATCHERS:
                self._matchers.popitem(last=False)
        self._matchers.move_to_end(key)
        return matcher

    def _symbols(self, tokens: TokenIds, at_start: bool) -> list[int]:
        """Return llguidance's symbols for ``tokens``."""
        symbols: list[int] = tokens.tolist()
        if at_start and symbols:
            symbols[0] = int(self._first[symbols[0]])
        end = self._vocabulary.size
        return [end if symbol in self._ends else symbol for symbol in symbols if symbol != end + 1]

    def _blocked(self, matcher: LLMatcher, is_first: bool) -> NDArray[np.bool_]:
        """Return which ids may not come next, (vocabulary,) bool.

        ``is_first``: whether the next token is the first one of a text.
        """
        bits = ~np.frombuffer(matcher.compute_bitmask(), np.uint8)
        symbols = np.unpackbits(bits, bitorder="little").view(np.bool_)
        blocked = symbols[: self._vocabulary.size]
        # The bit of the end is ignored, because llguidance also sets it at a dead end.
        blocked[self._ends] = not matcher.is_accepting()
        if not is_first:
            return blocked
        symbols[self._vocabulary.size + 1] = blocked.all()
        return symbols[self._first]

    def _describe(self, symbols: list[int]) -> str:
        """Return why no token can follow ``symbols``, as a sentence."""
        text = self._vocabulary.symbols.decode_str(symbols)
        place = f"after the text {text[-40:]!r}" if text else "at the start of the text"
        matcher = self._start.deep_copy()
        matcher.consume_tokens(symbols)
        matcher.compute_bitmask()
        cause = _cause(matcher.get_error())
        if cause not in ("", "NoExtensionBias"):
            return f"{self._option} cannot be followed {place}: {cause}."
        matcher = self._start.deep_copy()
        matcher.consume_tokens(symbols)
        forced = matcher.compute_ff_bytes().decode(errors="replace")
        wanted = f"{forced[:40]!r}, which" if forced else "any text that"
        verb = "requires" if forced else "allows"
        return (
            f"The model's vocabulary cannot spell {wanted} {self._option} {verb} {place}: change "
            f"{self._option}, or use a model whose vocabulary has all characters."
        )


def _lark(json_schema: Any, regex: str | None, grammar: str | None) -> tuple[str, str]:
    """Return the name of the given option, and its Lark grammar.

    Raises ``MissingPackageError`` without llguidance.
    """
    try:
        from llguidance import regex_to_lark
    except ImportError as error:
        raise MissingPackageError(
            "json_schema, regex and grammar need llguidance: install the extra 'guidance' "
            '(python -m pip install "edgeseq[guidance]").'
        ) from error
    if regex is not None:
        return "regex", f"start: /{regex_to_lark(regex, 'd')}/"
    if grammar is not None:
        return "grammar", grammar
    return "json_schema", f"start: %json {_schema_text(json_schema)}"


def _start(symbols: LLTokenizer, option: str, lark: str) -> LLMatcher:
    """Return the state before the first token; raise ``OptionError`` for a bad constraint."""
    from llguidance import LLMatcher

    matcher = LLMatcher(symbols, lark + _ANY_SPELLING, log_level=0)
    if matcher.is_error():
        cause = _cause(matcher.get_error())
        if option != "grammar":  # remove the position in a Lark text that the caller did not write
            cause = re.sub(r"^(at )?\d+\(\d+\): ", "", cause)
        raise OptionError(f"{option} must be {_FORMS[option]}: {cause}.")
    return matcher


def _schema_text(schema: Any) -> str:
    """Return the JSON text of a schema with the layout; raise ``OptionError`` for a bad schema."""
    try:
        if isinstance(schema, str):
            schema = json.loads(schema)
        if isinstance(schema, dict):
            schema = {"x-guidance": _JSON_LAYOUT, **schema}
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        form = _FORMS["json_schema"]
        raise OptionError(f"json_schema must be {form}: {reason(error)}.") from error


def _cause(message: str) -> str:
    """Return llguidance's message as a part of a sentence."""
    first, *rest = message.splitlines() or [""]
    # If a regular expression is wrong, a later line says why.
    details = [line.removeprefix("error: ") for line in rest if line.startswith("error: ")]
    return (first.removesuffix("regex parse error:") + "".join(details)).strip().rstrip(".")


def _vocabulary_of(tokenizer: AnyTokenizer, size: int) -> _Vocabulary:
    """Return a tokenizer's vocabulary, which is cached as long as the tokenizer exists.

    Reading it takes a fraction of a second.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    known = _VOCABULARIES.get(tokenizer)
    if known is not None and known.size == size:
        return known
    spelling = token_bytes_of(tokenizer)
    tokens = map(tokenizer.token, range(size))
    # llguidance never allows a symbol without bytes.
    pairs = [(b"", b"") if token is None else spelling(token) for token in tokens]
    spellings = [after for _, after in pairs] + [b"<|end|>", b""]
    first = np.arange(size, dtype=np.intp)
    for token_id, (at_start, after) in enumerate(pairs):
        if at_start != after:
            first[token_id] = len(spellings) if at_start else size + 1
            spellings += [at_start] if at_start else []
    form = SimpleNamespace(tokens=spellings, eos_token_id=size, bos_token_id=None)
    form.special_token_ids = [size]
    vocabulary = _Vocabulary(size, first, LLTokenizer(TokenizerWrapper(form)))
    _VOCABULARIES[tokenizer] = vocabulary
    return vocabulary
