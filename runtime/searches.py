"""Which search serves which strategy."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseq.runtime.beam_search import BeamSearch
from edgeseq.runtime.errors import OptionError
from edgeseq.runtime.group_beam_search import GroupBeamSearch
from edgeseq.runtime.lookup import LookupSearch
from edgeseq.runtime.options import GenerationOptions
from edgeseq.runtime.processors import Diversity, Processor, Task
from edgeseq.runtime.row_search import RowSearch
from edgeseq.runtime.search import Search
from edgeseq.runtime.stopping import Stopping


def new_search(
    tasks: Sequence[Task],
    options: GenerationOptions,
    processors: Sequence[Processor],
    stopping: Stopping,
    diversity: Diversity | None = None,
) -> Search:
    """The search for ``options``; ``OptionError`` if it cannot serve so many prompts."""
    match options.strategy:
        case "greedy" | "sampling":
            return RowSearch(tasks, options, processors, stopping)
        case "beam search":
            return BeamSearch(tasks, options, processors, stopping)
        case "prompt lookup":
            if len(tasks) != 1:
                raise OptionError(
                    f"prompt_lookup_num_tokens is for one prompt at a time, not {len(tasks)}."
                )
            return LookupSearch(tasks[0], options, processors, stopping)
        case "group beam search":
            assert diversity is not None
            return GroupBeamSearch(tasks, options, processors, stopping, diversity)
