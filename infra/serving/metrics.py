"""What a server has done, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.serving.latency import BOUNDS, By, Figures, Histogram

METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Mapping[By, tuple[str, str]] = {
    "path": ("featurefab_request_seconds", "How long requests took."),
    "part": ("featurefab_part_seconds", "How long the parts of reading requests took."),
    "group": ("featurefab_group_seconds", "How long it took to read the rows of a feature group."),
    "service": ("featurefab_service_seconds", "How long requests for a feature service took."),
}
_COUNTS = {
    "breaches": ("featurefab_sla_breaches", "Requests that took longer than their service's sla.", "service"),
    "cache_rows": ("featurefab_cache_rows", "Rows asked of the cache, by outcome.", "outcome"),
    "cache_gone": ("featurefab_cache_gone", "Rows no longer remembered, by cause.", "cause"),
    "store_failures": ("featurefab_store_failures", "Reads that the online store did not answer.", "target"),
}
_GAUGES = {
    "cache_entries": "Rows that are remembered.",
    "cache_bytes": "About how many bytes they take.",
    "cache_trusted": "Workers that are told of changes in what they remember.",
    "workers": "Workers that answer.",
}


class _Served(Collector):
    def __init__(self, figures: Figures, freshness: Mapping[str, float]) -> None:
        self._figures = figures
        self._freshness = freshness

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        requests = CounterMetricFamily("featurefab_requests", "Requests by path and status.", labels=["path", "status"])
        for path, statuses in figures.requests.items():
            for status, number in sorted(statuses.items()):
                requests.add_metric([path, str(status)], number)
        yield requests
        for by, (name, text) in _SECONDS.items():
            seconds = HistogramMetricFamily(name, text, labels=[by])
            for label, histogram in sorted(figures.seconds.get(by, {}).items()):
                seconds.add_metric([label], list(_buckets(histogram)), histogram.total)
            yield seconds
        for what, (name, text, label) in _COUNTS.items():
            if what in figures.counts:
                counter = CounterMetricFamily(name, text, labels=[label])
                for kind, number in sorted(figures.counts[what].items()):
                    counter.add_metric([kind], number)
                yield counter
        for gauge, value in figures.gauges.items():
            yield GaugeMetricFamily(f"featurefab_{gauge}", _GAUGES[gauge], value)
        fresh = GaugeMetricFamily("featurefab_freshness", "1 - age / sla of a group, at least 0.", labels=["group"])
        for group, value in self._freshness.items():
            fresh.add_metric([group], value)
        yield fresh


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """The buckets as Prometheus counts them: each with those below it."""
    below = 0
    for bound, number in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
        below += number
        yield bound, below


def metrics_text(figures: Figures, freshness: Mapping[str, float]) -> bytes:
    """The figures in Prometheus' text format, with how fresh each group is."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Served(figures, freshness))
    return generate_latest(registry)
