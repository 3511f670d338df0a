"""A shop whose orders come in files: their source, a group over them, a rule about prices, and what takes them in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from expectations.rules import Between, Suite, suite_for
from features import Entity, Feature, FeatureGroup, Registry, Source
from features.times import UTC_US
from infra.ingest import Ingestor
from infra.sources.stdf import StdfReader
from infra.sources.tabular import TabularReader


def orders_with(*texts: str, **about) -> Source:
    """Orders with an id, a moment and a price, and more columns of text."""
    schema = {"id": pl.Int64(), "at": UTC_US, "price": pl.Float64(), **dict.fromkeys(texts, pl.String())}
    return Source("orders", schema=schema, event_timestamp="at", **about)


def registry_of(orders: Source) -> Registry:
    """The group "prices", a row for each order."""
    return Registry(
        [
            FeatureGroup(
                "prices",
                "1.0.0",
                Entity("order", keys={"id": pl.Int64()}),
                orders,
                [Feature("price", pl.col("price"))],
                grain="event",
                owner="shop",
                description="What orders cost.",
            )
        ]
    )


def prices_up_to(high: float, orders: Source) -> Suite:
    """What the source implies, and that no order is dearer."""
    return suite_for(orders, rows=[Between(name="price_range", column="price", low=0, high=high)])


def write_orders(folder: Path, name: str, orders: Source, lines: Iterable[str]) -> None:
    """Put a file of orders where they are taken in from."""
    (folder / "orders").mkdir(parents=True, exist_ok=True)
    (folder / "orders" / f"{name}.csv").write_text("\n".join([",".join(orders.schema), *lines, ""]))


def taker(lake, registry, suite, clock, batch_files=64) -> Ingestor:
    """What takes the files in, judged by a suite."""
    return Ingestor(lake, registry, StdfReader((1, 1)), TabularReader, lambda _: suite, clock, batch_files)
