"""The commands about the feature server: run it, and look at what it did."""

from __future__ import annotations

from pathlib import Path

from flows.console import clear_errors, complain, out, print_json, print_table
from infra.serving.address import Address
from infra.serving.server import run
from infra.serving.workers import figures_of, wish
from infra.settings import environment_kept, load_settings


def serve(host: str | None, port: int, workers: int, *, home: Path | None, json: bool) -> None:
    """Say where, and serve until Ctrl-C."""

    def say_where(url: str) -> None:
        if url.startswith("http:") and not Address.resolve(settings.serve_host).loopback:
            complain("note", "keys and values travel in the clear: set serve_tls_certificate, or put TLS in front")
        if json:
            print_json({"address": url, "docs": f"{url}/docs", "workers": workers})
        else:
            out.print(f"serving features at {url}; what can be asked: {url}/docs; Ctrl-C ends it")

    with clear_errors(), environment_kept():
        settings = load_settings(home=home, serve_host=host)
        run(settings, port, workers, say_where)


def latency(*, home: Path | None, json: bool) -> None:
    """How long requests and their parts took, by all workers that run."""
    with clear_errors():
        figures = figures_of(load_settings(home=home).serving)
    rows = [
        {"of": by, "name": name, **histogram.summary()}
        for by, named in figures.seconds.items()
        for name, histogram in sorted(named.items())
    ]
    if json:
        print_json(rows)
        return
    print_table("seconds", rows)


def cache_stats(*, home: Path | None, json: bool) -> None:
    """What the caches of all workers that run hold and did."""
    with clear_errors():
        figures = figures_of(load_settings(home=home).serving)
    rows, gone = figures.counts.get("cache_rows", {}), figures.counts.get("cache_gone", {})
    hits, misses = rows.get("hit", 0), rows.get("miss", 0)
    parts = figures.seconds.get("part", {})
    warm, cold = (parts[name].mean if name in parts else None for name in ("cache", "store"))
    facts = {
        "workers": int(figures.gauges.get("workers", 0)),
        "trusted": int(figures.gauges.get("cache_trusted", 0)),
        "rows": int(figures.gauges.get("cache_entries", 0)),
        "bytes": int(figures.gauges.get("cache_bytes", 0)),
        "hits": hits,
        "misses": misses,
        "hit_rate": hits / (hits + misses) if hits + misses else None,
        "no_room": gone.get("room", 0),
        "changed": gone.get("change", 0),
        "cold_seconds": cold,
        "warm_seconds": warm,
        # Requests that were answered from memory, times what each would have waited longer for the store.
        "saved_seconds": parts["cache"].count * (cold - warm) if warm is not None and cold is not None else None,
    }
    if json:
        print_json(facts)
        return
    print_table("cache", [{"": name.replace("_", " "), " ": value} for name, value in facts.items()])


def cache_clear(*, home: Path | None, json: bool) -> None:
    """Have all workers forget what they remember."""
    with clear_errors():
        folder = load_settings(home=home).serving
        wish(folder, "clear")
        workers = int(figures_of(folder).gauges.get("workers", 0))
    print_json({"workers": workers}) if json else out.print(f"{workers} worker(s) forget what they remember")
