"""A home that one version of the code uses after another."""

from __future__ import annotations

import polars as pl

from card_payments import ABOUT, HOUR, T0, amount, card, hours, paid, payments
from features import Feature, FeatureGroup, FeatureStore, Registry
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore

CARDS = [1, 2, 3]


def group(version, factor=1, *features, derived=(), name="g", **options):
    stored = [Feature("v", amount * factor), *features]
    return FeatureGroup(
        name, version, card, payments, stored, derived=derived, **{"grain": "event", **ABOUT, **options}
    )


class Home:
    """A lake and an online store under a clock, used by one version of the code after another."""

    def __init__(self, folder, **options):
        self.now = T0
        self.lake, self.online = DeltaLake(folder), MemoryOnlineStore()
        self.options = options
        self.store = None

    def deploy(self, *items):
        registry = Registry(items)
        self.store = FeatureStore(registry, self.lake, self.online, lambda: self.now, user="ann", **self.options)
        self.tick()
        self.store.apply()

    def tick(self, hours=1):
        self.now += hours * HOUR

    def write(self, *rows):
        """Payments as (id, card, amount, hours after T0)."""
        rows = [(number, card_id, float(value), hours(at)) for number, card_id, value, at in rows]
        self.store.write_source(payments, paid(*rows))

    def run(self, name="g"):
        self.tick()
        self.store.materialize_incremental(name)
        self.store.sync(name)

    def backfill(self, name="g"):
        self.tick()
        self.store.materialize(name, T0 - 99 * HOUR, self.now)
        self.store.sync(name)

    def rollback(self, version, name="g"):
        self.tick()
        return self.store.rollback(name, version)

    def release(self, name="g"):
        self.tick()
        return self.store.release(name)

    def answers(self, ref="g:v"):
        """What each card is answered online, after proving that both histories say the same now."""
        self.tick()
        found = self.store.get_online_features([ref], [{"card_id": c} for c in CARDS]).to_polars()
        name = ref.partition(":")[2]
        online = list(zip(found[name], found[f"{name}__status"], strict=True))
        asked = pl.DataFrame({"card_id": CARDS, "event_timestamp": [self.now] * len(CARDS)})
        for history in ("as_served", "backfilled"):
            offline = self.store.get_historical_features(asked, [ref], history=history)
            assert list(zip(offline.to_polars()[name], offline.statuses[name], strict=True)) == online
        return [value for value, _ in online]

    def standing(self):
        rows = self.store.current_rows("g").select("card_id", "event_timestamp", "v").collect()
        return sorted(rows.rows())
