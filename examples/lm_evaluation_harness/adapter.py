"""Run tasks of the lm-evaluation-harness on a bundle.

python examples/lm_evaluation_harness/adapter.py BUNDLE FOLDER TASK...

FOLDER has the tasks as files of the harness (.yaml). The names of its own tasks work, too, but most
of them download their data. The results are printed as JSON.

The harness needs an environment of its own:

python -m pip install "edgeseq[cpu]" lm-eval==0.4.13
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from edgeseq.runtime import Model, load

NEW_TOKENS = 256  # limit of new tokens for a task that has none, as in the harness


class EdgeseqLM(TemplateLM):
    """A bundle as a model of the harness; ``score`` and ``generate`` do the work."""

    def __init__(self, bundle: str | Path | None = None, threads: int | None = None) -> None:
        super().__init__()
        self._model: Model = load(bundle, threads=threads)
        manifest = self._model.bundle.manifest
        self.backend = "seq2seq" if manifest.has_encoder else "causal"
        # `score_ids` takes as many tokens as there are positions, the predicted one included.
        positions = manifest.dimensions.max_positions
        self._longest = None if positions is None else positions - 1

    @property
    def eot_token_id(self) -> int:
        """The id of the end-of-sequence token, which is in front of a text without context."""
        eos = self._model.bundle.manifest.generation["eos_token_id"]
        return int(eos[0] if isinstance(eos, list) else eos)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the token ids of a string."""
        special = add_special_tokens is None or add_special_tokens
        return self._model.tokenizer.encode(string, add_special_tokens=special)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        if self.backend == "causal":
            return [self._continuation(context, target) for _, context, target in requests]
        return [self._target(*texts) for texts, _, _ in requests]

    def _continuation(self, context: Sequence[int], target: Sequence[int]) -> tuple[float, bool]:
        """Return the log-probability of ``target`` after ``context``, and whether it is greedy.

        A context that is too long is cut off at its beginning.
        """
        ids = [*context, *target]
        if self._longest is not None:
            ids = ids[-self._longest - 1 :]
        score = self._model.score_ids(ids, logprobs=1)
        known = score.log_probabilities[-len(target) :]
        best = [top[0][0] for top in score.top_logprobs[-len(target) :]]
        return sum(known), best == list(target)

    def _target(self, source: str, target: str) -> tuple[float, bool]:
        """Return the log-probability of a target without the end of the sequence."""
        score = self._model.score(source, target)
        ids = score.token_ids[:-1]
        [greedy] = self._model.generate(
            source, do_sample=False, num_beams=1, max_new_tokens=max(len(ids), 1)
        )
        return sum(score.log_probabilities[:-1]), greedy.token_ids == ids

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Return the log-probability of each text, read in the windows of the harness."""
        return [sum(self._windows(*request.args)) for request in requests]

    def _windows(self, text: str) -> Iterator[float]:
        ids = self.tok_encode(text)
        windows = get_rolling_token_windows(
            ids, self.prefix_token_id, self._longest or len(ids), context_len=1
        )
        for context, target in map(make_disjoint_window, windows):
            yield self._continuation(context, target)[0]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Return the text that is generated after each prompt, up to a stop string."""
        return [self._generated(*request.args) for request in requests]

    def _generated(self, prompt: str, asked: dict[str, Any]) -> str:
        until = asked.get("until") or None
        new_tokens = int(asked.get("max_gen_toks", NEW_TOKENS))
        options: dict[str, Any] = {
            "do_sample": bool(asked.get("do_sample", False)),
            "stop_strings": until,
            "max_new_tokens": new_tokens,
        }
        if options["do_sample"]:
            options["temperature"] = float(asked.get("temperature", 1.0))
        ids = self.tok_encode(prompt)
        if self._longest is not None and self.backend == "causal":
            ids = ids[-max(self._longest - new_tokens, 1) :]
        return self._model.generate_ids([ids], **options)[0].text


def main() -> None:
    """Evaluate and print the results."""
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    bundle, folder, *tasks = sys.argv[1:]
    found = simple_evaluate(
        model=EdgeseqLM(bundle),
        tasks=tasks,
        task_manager=TaskManager(include_path=folder),
        bootstrap_iters=0,
    )
    print(json.dumps(found["results"]))


if __name__ == "__main__":
    main()
