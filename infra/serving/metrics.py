"""What this process has done, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.serving.latency import BOUNDS, Latency
from infra.storage.row_cache import RowCache

METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class _Requests(Collector):
    def __init__(self, latency: Latency) -> None:
        self._latency = latency

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("featurefab_requests", "Requests by path and status.", labels=["path", "status"])
        seconds = HistogramMetricFamily("featurefab_request_seconds", "How long requests took.", labels=["path"])
        for path, seen in self._latency.endpoints.items():
            for status, number in sorted(seen.statuses.items()):
                requests.add_metric([path, str(status)], number)
            below, buckets = 0, []
            for bound, number in zip((*map(str, BOUNDS), "+Inf"), seen.seconds.counts, strict=True):
                below += number
                buckets.append((bound, below))
            seconds.add_metric([path], buckets, seen.seconds.total)
        yield requests
        yield seconds


class _Cached(Collector):
    def __init__(self, cache: RowCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        stats = self._cache.stats
        rows = CounterMetricFamily("featurefab_cache_rows", "Rows asked of the cache, by outcome.", labels=["outcome"])
        gone = CounterMetricFamily("featurefab_cache_gone", "Rows no longer remembered, by cause.", labels=["cause"])
        for outcome, number in (("hit", stats.hits), ("miss", stats.misses)):
            rows.add_metric([outcome], number)
        for cause, number in (("room", stats.evicted), ("change", stats.changed)):
            gone.add_metric([cause], number)
        yield rows
        yield gone
        yield GaugeMetricFamily("featurefab_cache_entries", "Rows that are remembered.", len(self._cache))
        yield GaugeMetricFamily("featurefab_cache_bytes", "About how many bytes they take.", self._cache.bytes)
        yield GaugeMetricFamily("featurefab_cache_trusted", "1 while changes are told of.", int(self._cache.trusted))


def metrics_text(latency: Latency, cache: RowCache | None = None) -> bytes:
    """The figures of this worker in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Requests(latency))
    if cache is not None:
        registry.register(_Cached(cache))
    return generate_latest(registry)
