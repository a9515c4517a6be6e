"""Diverse beam search: groups of beams that differ from each other.

The groups of a prompt choose one after the other. At each step, the logit of a token is lowered by
``diversity_penalty`` for each time that an earlier group has just chosen it. Source: "Diverse Beam
Search", https://arxiv.org/abs/1610.02424, and ``GenerationMixin._group_beam_search`` with
``BeamSearchScorer`` (Transformers 4.56.2, the last release with it).

This search differs from beam search without groups:

- End-of-sequence tokens among a group's best candidates take no slot of the beams that continue.
- Beams that are running at the limit become hypotheses as they are.
- A finished group counts as choosing the padding token.

A text ends with the end-of-sequence token that was chosen. Transformers always writes the first of
several ``eos_token_id``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..decoder import Logits
from ..logits.processors import Diversity, Processor, Prompt, Rows
from ..logits.softmax import DeadEndError, check_finite, normalize
from ..request.options import GenerationOptions
from ..results import FinishReason
from . import candidates
from .beams import Beams, Branch, CertainPrefix, Hypothesis, best_attainable
from .loop import Found, NewToken, StepResult
from .stopping import Stopping


class GroupBeamSearch:
    """A diverse beam search for several prompts; its rows are in the order of the prompts.

    ``diversity``: the diversity processor, which must also be in ``processors``.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions,
        processors: Sequence[Processor],
        stopping: Stopping,
        diversity: Diversity,
    ) -> None:
        self._options = options
        self._processors = processors
        self._diversity = diversity
        self._prompts = [
            _PromptGroups(index, prompt, options, stopping) for index, prompt in enumerate(prompts)
        ]

    def choose(self, logits: Logits, interrupt: FinishReason | None = None) -> StepResult:
        """Choose the continuations of every group, in the order of the groups."""
        if not self._options.remove_invalid_values:
            for row in logits:
                check_finite(float(row.max()))
        normalize(logits)
        next_tokens: list[int] = []
        parent_rows: list[int] = []
        new_tokens: list[NewToken] = []
        for prompt in self._prompts:
            if not any(group.is_live for group in prompt.groups):
                continue
            self._diversity.chosen = []
            for group in prompt.groups:
                if group.is_live:
                    self._choose_in(group, prompt.index, logits[group.rows], interrupt)
                    self._diversity.chosen += group.beams.last_tokens
                else:
                    self._diversity.chosen += group.padding
            for group in prompt.groups:
                if group.is_live:
                    beams = group.beams
                    parent_rows += [group.rows[parent] for parent in beams.parents]
                    begin = len(next_tokens)
                    next_tokens += beams.last_tokens
                    group.rows = list(range(begin, len(next_tokens)))
            new_tokens += prompt.final_tokens()
        return StepResult(next_tokens, parent_rows, new_tokens)

    def results(self) -> Sequence[Found]:
        """Return each prompt's best hypotheses of all groups, the best first."""
        count = self._options.num_return_sequences
        return [found for prompt in self._prompts for found in prompt.found(count)]

    def _choose_in(
        self, group: _Group, prompt: int, log_probs: Logits, interrupt: FinishReason | None
    ) -> None:
        known = log_probs if self._options.logprobs is None else log_probs.copy()
        rows = Rows(list(group.beams.texts()), [prompt] * len(log_probs))
        for process in self._processors:
            process(log_probs, rows)
        group.advance(log_probs, known, interrupt)


class _PromptGroups:
    """The groups of one prompt."""

    def __init__(
        self, index: int, prompt: Prompt, options: GenerationOptions, stopping: Stopping
    ) -> None:
        self.index = index
        self.groups = [
            _Group(index, prompt, options, stopping) for _ in range(options.num_beam_groups)
        ]
        self._text = index * options.num_return_sequences
        self._agreement = CertainPrefix(self._text)

    def final_tokens(self) -> list[NewToken]:
        """Return the tokens of the best text that have become certain."""
        ranked = self._ranked()
        running = [group.beams for group in self.groups if group.is_live]
        return self._agreement.advance(running, ranked[0] if ranked else None)

    def found(self, count: int) -> list[Found]:
        """Return the ``count`` best hypotheses of all groups."""
        ranked = self._ranked()
        if not ranked:  # cancelled before the first step
            logprobs = self.groups[0].beams.logprobs[0]
            return [Found(self._text, (), "cancelled", None, logprobs)] * count
        return [hypothesis.found(self._text) for hypothesis in ranked[:count]]

    def _ranked(self) -> list[Hypothesis]:
        kept = [hypothesis for group in self.groups for hypothesis in group.hypotheses]
        # Among equal scores, the last hypothesis comes first.
        return sorted(kept, key=lambda hypothesis: hypothesis.score)[::-1]


class _Group:
    """The beams and the hypotheses of one group."""

    def __init__(
        self, index: int, prompt: Prompt, options: GenerationOptions, stopping: Stopping
    ) -> None:
        self.beams = Beams(prompt.start, options.logprobs, stopping.matcher(index))
        self.rows = [index]  # rows of the beams; in the first step, all groups share a row
        self.is_live = True
        self.hypotheses: list[Hypothesis] = []  # in the order in which they ended
        self._size = options.num_beams // options.num_beam_groups
        tokens = options.eos_token_ids if options.pad_token_id is None else (options.pad_token_id,)
        self.padding = [*tokens[:1]] * self._size  # tokens that a finished group counts as choosing
        self._limit = prompt.limit
        self._options = options
        self._stopping = stopping
        self._kept = max(2, 1 + len(options.eos_token_ids)) * self._size

    def advance(self, log_probs: Logits, known: Logits, interrupt: FinishReason | None) -> None:
        """Advance the beams by one step.

        ``log_probs: (beams, vocab)``: log-probabilities after the processors; ``known``: the
        model's own log-probabilities, of the same shape.
        """
        beams = self.beams
        found = candidates.best(log_probs, beams.scores, self._kept)
        if not found and not self.hypotheses:
            raise DeadEndError
        running: list[Branch] = []
        for place, branch in enumerate(beams.branches(found, known)):
            reason = self._stopping.reason(
                branch.token, beams.length + 1, self._limit + 1, branch.matcher
            )
            if reason is None:
                running.append(branch)
            elif place < self._size:
                self._finish(branch, reason)
            if len(running) == self._size:
                break
        best_score = found[0].score if found else -np.inf
        length = beams.length + 1
        last = "length" if length == self._limit else interrupt
        is_done = self._is_settled(best_score, length)
        if last is not None and not is_done:
            for branch in running:
                self._finish(branch, last)
        beams.advance(running)
        self.is_live = bool(running) and last is None and not is_done

    def _finish(self, branch: Branch, reason: FinishReason) -> None:
        """Add the branch as a hypothesis if it is among the group's best."""
        hypothesis = branch.ended(reason, self._options.length_penalty)
        kept = self.hypotheses
        worst = min((other.score for other in kept), default=np.inf)
        if len(kept) < self._size or hypothesis.score > worst:
            kept.append(hypothesis)
            if len(kept) > self._size:
                kept.remove(min(kept, key=lambda other: other.score))

    def _is_settled(self, best_score: float, length: int) -> bool:
        """Return whether no running beam is expected to become one of the group's best."""
        options = self._options
        if len(self.hypotheses) < self._size:
            return False
        if options.early_stopping is True:
            return True
        worst = min(hypothesis.score for hypothesis in self.hypotheses)
        return best_attainable(best_score, length, self._limit, options) <= worst
