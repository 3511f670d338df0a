"""What this process has done, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from infra.serving.latency import BOUNDS, Latency

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


def metrics_text(latency: Latency) -> bytes:
    """The figures of this worker in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Requests(latency))
    return generate_latest(registry)
