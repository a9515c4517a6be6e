"""Counters and histograms in the text form of Prometheus.

Written here because it is short: the package prometheus_client has a registry for the whole
process, which would mix the figures of two applications in one process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

from .models import Models

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """The distribution of observed seconds, by the name of the model."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, model: str, seconds: float) -> None:
        """Add one observation."""
        counts = self._counts.setdefault(model, [0] * (len(SECONDS) + 1))
        counts[bisect_left(SECONDS, seconds)] += 1
        self._sums[model] = self._sums.get(model, 0.0) + seconds

    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines of the text form."""
        for model, counts in self._counts.items():
            total = 0
            for bound, count in zip((*SECONDS, "+Inf"), counts, strict=True):
                total += count
                yield f"{name}_bucket{_labels({'model': model, 'le': str(bound)})} {total}"
            yield f"{name}_sum{_labels({'model': model})} {self._sums[model]:.6f}"
            yield f"{name}_count{_labels({'model': model})} {total}"


class Metrics:
    """The figures of one application. They are changed by the event loop's thread alone."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by route and status
        self.prompt_tokens: Counter[str] = Counter()  # by model
        self.generated_tokens: Counter[str] = Counter()  # by model
        self.cancelled: Counter[str] = Counter()  # by model
        self.first_token = Histogram()
        self.duration = Histogram()

    def text(self, models: Models) -> str:
        """Return all figures in the text form."""
        return "\n".join([*self._lines(models), ""])

    def _lines(self, models: Models) -> Iterator[str]:
        yield from _head("edgeseq_requests_total", "counter", "Answered requests.")
        for (route, status), count in self.requests.items():
            labels = _labels({"route": route, "status": str(status)})
            yield f"edgeseq_requests_total{labels} {count}"
        counters = {
            "edgeseq_prompt_tokens_total": ("Tokens of prompts.", self.prompt_tokens),
            "edgeseq_generated_tokens_total": ("Generated tokens.", self.generated_tokens),
            "edgeseq_cancelled_total": (
                "Requests that ended early: the client left, or the time was over.",
                self.cancelled,
            ),
        }
        for name, (text, counter) in counters.items():
            yield from _head(name, "counter", text)
            for model, count in counter.items():
                yield f"{name}{_labels({'model': model})} {count}"
        for name, text, histogram in (
            ("edgeseq_time_to_first_token_seconds", "Time to the first token.", self.first_token),
            ("edgeseq_generation_seconds", "Time of a generation, with its wait.", self.duration),
        ):
            yield from _head(name, "histogram", text)
            yield from histogram.lines(name)
        gauges = {
            "edgeseq_requests_running": "Requests that generate.",
            "edgeseq_requests_waiting": "Requests in the queue.",
            "edgeseq_batch_size": "Texts that are generated at the same time.",
        }
        for name, text in gauges.items():
            yield from _head(name, "gauge", text)
            for served in models.served:
                queue = served.queue
                value = {"running": queue.running, "waiting": queue.waiting, "size": queue.texts}
                yield f"{name}{_labels({'model': served.name})} {value[name.rpartition('_')[2]]}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {
        key: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for key, value in labels.items()
    }
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}"
