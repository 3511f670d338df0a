"""Cards that pay in shops: groups of two entities, services over them, and a home that holds some rows of each."""

from __future__ import annotations

import shutil
from datetime import timedelta

import polars as pl

from card_payments import ABOUT, T0, card
from features import Entity, Feature, FeatureGroup, FeatureService, FeatureStore, Registry, Source
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore

shop = Entity("shop", keys={"shop_id": pl.String, "till": pl.Int32})
payments = Source(
    "payments",
    schema={"card_id": pl.Int64, "shop_id": pl.String, "till": pl.Int32, "amount": pl.Float64, "at": pl.Datetime},
    event_timestamp="at",
)
spending = FeatureGroup(
    "spending",
    "1.0.0",
    card,
    payments,
    [Feature("amount_last", pl.col("amount")), Feature("large", pl.col("amount") > 50)],
    grain="event",
    ttl="10d",
    derived=[Feature("amount_cents", pl.col("amount_last") * 100)],
    **ABOUT,
)
tills = FeatureGroup(
    "tills", "1.2.0", shop, payments, [Feature("amount_last", pl.col("amount"))], grain="event", online=True, **ABOUT
)
checkout = FeatureService(
    "checkout",
    ["spending:amount_last", "spending:large"],
    request={"basket": pl.Float64},
    derived=[Feature("basket_ratio", pl.col("basket") / pl.col("amount_last"))],
    **ABOUT,
)
whole = Feature("whole", pl.col("basket") // 2)
typed = FeatureService(
    "typed",
    ["spending:amount_last"],
    request={"basket": pl.Float64},
    derived=[whole, Feature("one", pl.lit(1))],
    **ABOUT,
)
ROWS = [(1, "a", 1, 10.0, T0), (1, "b", 2, 60.0, T0 + timedelta(days=1)), (2, "a", 12, None, T0)]
REFS = ["spending:amount_last", "spending:large"]


def asked(*rows, **columns):
    frame = pl.DataFrame(rows, schema={"card_id": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC")}, orient="row")
    return frame.with_columns(**columns)


def rows_of(*rows):
    """A frame of payments from tuples in the order of their columns."""
    return pl.DataFrame(rows, schema=dict(payments.schema), orient="row")


def open_home(home):
    registry = Registry([spending, tills, checkout, typed])
    lake, online = DeltaLake(home / "lake"), LmdbOnlineStore(home / "online")
    return FeatureStore(registry, lake, online, clock=lambda: T0 + timedelta(days=5))


def fill(home):
    """Write ROWS, and materialize and sync what they make."""
    with open_home(home) as store:
        store.write_source(payments, rows_of(*ROWS))
        for group in (spending, tills):
            store.materialize(group, T0, T0 + timedelta(days=3))
            store.sync(group)
    return home


def open_copy(filled, home):
    """A store on a copy of a filled home."""
    shutil.copytree(filled, home, dirs_exist_ok=True)
    return open_home(home)
