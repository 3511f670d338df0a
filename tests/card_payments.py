"""Cards that pay: the entity, the source, a group of each grain and the store that many tests share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.capacity import Capacity
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ABOUT = {"owner": "payments", "description": "About a card."}
SCHEMA = {"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")}

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source("payments", SCHEMA, "at", keys=["payment_id"])
amount, total = pl.col("amount"), pl.col("amount").sum()


def hours(n):
    """The moment n hours after T0."""
    return T0 + n * HOUR


def paid(*rows):
    """A frame of payments from tuples of (payment_id, card_id, amount, at)."""
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def group(name, features, version="1.0.0", source=payments, **options):
    return FeatureGroup(name, version, card, source, features, **(ABOUT | options))


last_payment = group("last_payment", [Feature("amount_last", amount)], grain="event")
sessions = group("sessions", [Feature("n", pl.len()), Feature("total", total)], grain="entity", settle="2h")
daily = group("daily", [Feature("n", pl.len())], grain="entity", every="1d")
windows = group(
    "windows",
    [Feature("n_1d", pl.len(), window="1d"), Feature("sum_3d", total, window="3d")],
    grain="window",
    every="6h",
)
GROUPS = [last_payment, sessions, daily, windows]


class Home:
    """A store on a folder with a clock to turn, and runs that hold as many rows as ``capacity`` says."""

    def __init__(self, folder, groups=GROUPS, **capacity):
        self.now = T0
        self.lake = DeltaLake(folder)
        online, limit = MemoryOnlineStore(), Capacity(**capacity)
        self.store = FeatureStore(Registry(groups), self.lake, online, lambda: self.now, limit)

    def write(self, rows, batch=None, source=payments):
        """Write rows of a source, as tuples in the order of its columns."""
        return self.store.write_source(source, pl.DataFrame(rows, schema=dict(source.schema), orient="row"), batch)

    def rows(self, name):
        """The current rows of a group."""
        return self.store.current_rows(name).collect()

    def values(self, one):
        """The current keys, times and features of a group, in order."""
        columns = [*one.keys, "event_timestamp", *one.feature_names]
        return self.rows(one.name).select(columns).sort(columns)
