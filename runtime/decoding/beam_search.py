"""Beam search and beam sampling, as in Transformers since 4.50.

At every step, the ``num_beams`` most probable continuations that do not end become the beams of a
prompt. A continuation that ends becomes a hypothesis if it is among the ``num_beams`` best
continuations. Hypotheses are ranked by their log-probability, divided by their length to the power
of ``length_penalty``. Source: ``GenerationMixin._beam_search`` (4.57.6).

There is one difference. If fewer than ``num_beams`` continuations are possible, Transformers adds
copies with a score of -1e9. Here there are fewer beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..decoder import Logits
from ..logits.processors import Processor, Prompt, Rows
from ..logits.softmax import DeadEndError, check_finite, normalize
from ..request.options import GenerationOptions
from ..results import FinishReason
from . import candidates
from .beams import Beams, CertainPrefix, Hypothesis, best_attainable
from .candidates import Scan
from .loop import Found, NewToken, StepResult
from .stopping import Stopping


class BeamSearch:
    """A beam search for several prompts; its rows are in the order of the prompts."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions,
        processors: Sequence[Processor],
        stopping: Stopping,
    ) -> None:
        self._options = options
        self._processors = processors
        self._prompts = [
            _PromptBeams(index, prompt, options, stopping) for index, prompt in enumerate(prompts)
        ]
        self._live = list(self._prompts)
        self._scratch: Logits | None = None  # memory for one row

    def choose(self, logits: Logits, interrupt: FinishReason | None = None) -> StepResult:
        """Choose the continuations of every prompt's beams."""
        scan, known = self._prepare(logits)
        next_tokens: list[int] = []
        parent_rows: list[int] = []
        new_tokens: list[NewToken] = []
        begin = 0
        for prompt in self._live:
            end = begin + len(prompt.beams.scores)
            part = None if scan is None else scan.rows(begin, end)
            new_tokens += prompt.advance(logits[begin:end], part, known[begin:end], interrupt)
            if not prompt.is_done:
                next_tokens += prompt.beams.last_tokens
                parent_rows += [begin + parent for parent in prompt.beams.parents]
            begin = end
        self._live = [prompt for prompt in self._live if not prompt.is_done]
        return StepResult(next_tokens, parent_rows, new_tokens)

    def _prepare(self, logits: Logits) -> tuple[Scan | None, Logits]:
        """Return a scan of ``logits``, and the model's own log-probabilities.

        If processors, sampling or ``logprobs`` need all log-probabilities, the logits are
        normalized in place, the processors change them, and the scan is None. Otherwise the logits
        stay as they are, and the scan holds the normalizers for the few best ones.
        """
        options = self._options
        if self._scratch is None:
            self._scratch = np.empty_like(logits[:1])
        scan = candidates.scan(logits, self._scratch)
        if not options.remove_invalid_values:
            for peak in scan.sums.peaks:
                check_finite(peak)
        if not self._processors and options.logprobs is None and not options.do_sample:
            return scan, logits
        normalize(logits, scan.sums)
        known = logits if options.logprobs is None else logits.copy()
        rows = Rows(
            [tokens for prompt in self._live for tokens in prompt.beams.texts()],
            [prompt.index for prompt in self._live for _ in prompt.beams.scores],
        )
        for process in self._processors:
            process(logits, rows)
        return None, known

    def results(self) -> Sequence[Found]:
        """Return each prompt's best hypotheses, the best first."""
        count = self._options.num_return_sequences
        return [found for prompt in self._prompts for found in prompt.found(count)]


class _PromptBeams:
    """The beams and the hypotheses of one prompt."""

    def __init__(
        self, index: int, prompt: Prompt, options: GenerationOptions, stopping: Stopping
    ) -> None:
        self.index = index
        self.is_done = False
        self.beams = Beams(prompt.start, options.logprobs, stopping.matcher(index))
        self._limit = prompt.limit
        self._options = options
        self._stopping = stopping
        self._hypotheses: list[Hypothesis] = []  # the best first
        self._text = index * options.num_return_sequences
        self._agreement = CertainPrefix(self._text)
        # Enough to continue num_beams beams even if the best continuations of each beam end.
        self._kept = max(2, 1 + len(options.eos_token_ids)) * options.num_beams

    @cached_property
    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self._options.seed)

    def advance(
        self, logits: Logits, scan: Scan | None, known: Logits, interrupt: FinishReason | None
    ) -> list[NewToken]:
        """Advance the beams by one step; return the tokens that have become final.

        ``logits: (beams, vocab)`` are log-probabilities, unless there is a ``scan`` to normalize
        them. ``known``: the model's own log-probabilities.
        """
        beams, options = self.beams, self._options
        if options.do_sample:
            found = candidates.draw(logits, beams.scores, self._kept, self._generator)
        else:
            found = candidates.best(logits, beams.scores, self._kept, scan)
        if not found and not self._hypotheses:
            raise DeadEndError
        branches = beams.branches(found, known)
        running: list[int] = []
        for place, branch in enumerate(branches):
            reason = self._stopping.reason(
                branch.token, beams.length + 1, self._limit, branch.matcher, interrupt
            )
            if reason is None:
                running.append(place)
            elif place < options.num_beams:
                self._finish(branch.ended(reason, options.length_penalty))
        if options.do_sample:
            running.sort(key=lambda place: -found[place].score)
        beams.advance([branches[place] for place in running[: options.num_beams]])
        self.is_done = not running or self._is_settled()
        best = self._hypotheses[0] if self._hypotheses else None
        return self._agreement.advance([] if self.is_done else [beams], best)

    def found(self, count: int) -> list[Found]:
        """Return the ``count`` best hypotheses."""
        if not self._hypotheses and not self.is_done:  # cancelled before the first step
            return [Found(self._text, (), "cancelled", None, self.beams.logprobs[0])] * count
        return [hypothesis.found(self._text) for hypothesis in self._hypotheses[:count]]

    def _finish(self, hypothesis: Hypothesis) -> None:
        """Add a hypothesis and keep the ``num_beams`` best; the older of equal ones is better."""
        self._hypotheses.append(hypothesis)
        self._hypotheses.sort(key=lambda kept: -kept.score)
        del self._hypotheses[self._options.num_beams :]

    def _is_settled(self) -> bool:
        """Return whether no running beam is expected to become one of the best hypotheses."""
        options = self._options
        if len(self._hypotheses) < options.num_beams:
            return False
        if options.early_stopping is True:
            return True
        best = best_attainable(self.beams.scores[0], self.beams.length, self._limit, options)
        return best <= self._hypotheses[-1].score
