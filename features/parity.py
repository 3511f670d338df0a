"""Parity: the online store answers what the offline store says it answers, feature by feature.

Two measures beside plain agreement, over the entities that have a number on either side (Chronon's
online-offline consistency names the first): consistency = 1 - |on - off| / max(|on|, |off|), 1 where
both are equal, 0 where only one is there; and skew = Σ |train - serve| / n, in the feature's unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from features.point_in_time import NOT_FOUND, OUTSIDE_MAX_AGE

LEAST_AGREEMENT = 0.999
"""Below this share of equal answers, of any feature, a parity check fails."""

_EXAMPLES = 3
_HASH_OVERDRAW = 1.3  # an approximate count may be a few percent off


@dataclass(frozen=True)
class Difference:
    """One entity for which the two stores answer differently; values are None where there is none."""

    entity: Mapping[str, Any]
    online: Any
    online_status: str
    offline: Any
    offline_status: str


@dataclass(frozen=True)
class FeatureParity:
    """How the two answers compare for one feature.

    ``agreement`` is the share of entities with equal value (bit for bit) and status; ``consistency`` and
    ``skew`` are means over those with a number, None where none has one or the feature is no number.
    """

    feature: str
    entities: int
    agreement: float
    consistency: float | None
    skew: float | None
    other_status: int
    differences: Sequence[Difference]


@dataclass(frozen=True)
class GroupParity:
    """How the two stores compare for some features of one group, on a sample of its entities."""

    group: str
    entities: int
    features: Sequence[FeatureParity]

    @property
    def agreement(self) -> float:
        """That of the feature that agrees least; 1 where nothing was compared."""
        return min((feature.agreement for feature in self.features), default=1.0)

    @property
    def ok(self) -> bool:
        """Whether every feature agrees for at least LEAST_AGREEMENT of the entities."""
        return self.agreement >= LEAST_AGREEMENT


def compare(
    keys: Sequence[str], features: Sequence[str], online: pl.DataFrame, offline: pl.DataFrame
) -> list[FeatureParity]:
    """Compare two answers for the same entities, in the same order.

    Both frames have the keys, the features and ``<feature>__status``. A row that the online store has
    evicted (NOT_FOUND) where the offline store says OUTSIDE_MAX_AGE counts as equal.
    """
    return [_compared(keys, feature, online, offline) for feature in features]


def _compared(keys: Sequence[str], feature: str, online: pl.DataFrame, offline: pl.DataFrame) -> FeatureParity:
    status = f"{feature}__status"
    both = online.select(
        *keys,
        pl.col(feature).alias("online"),
        pl.col(status).alias("online_status"),
        offline[feature].alias("offline"),
        offline[status].alias("offline_status"),
    )
    evicted = (pl.col("offline_status") == OUTSIDE_MAX_AGE) & (pl.col("online_status") == NOT_FOUND)
    same_status = (pl.col("online_status") == pl.col("offline_status")) | evicted
    both = both.with_columns(
        (pl.col("online").eq_missing(pl.col("offline")) & same_status).alias("equal"), same_status.alias("same_status")
    )
    different = both.filter(~pl.col("equal"))
    consistency, skew = _numeric(both) if both.schema["offline"].is_numeric() else (None, None)
    return FeatureParity(
        feature,
        both.height,
        1.0 if both.is_empty() else 1 - different.height / both.height,
        consistency,
        skew,
        both.height - int(both["same_status"].sum()),
        [_difference(row, keys) for row in different.head(_EXAMPLES).to_dicts()],
    )


def _numeric(both: pl.DataFrame) -> tuple[float | None, float | None]:
    """Mean consistency and skew of the entities with a number on either side; see the module."""
    on, off = (pl.col(side).cast(pl.Float64).fill_nan(None) for side in ("online", "offline"))
    numbers = (
        both.lazy().select(on=on, off=off, equal="equal").filter(pl.any_horizontal(pl.col("on", "off").is_not_null()))
    )
    apart = pl.when("equal").then(0.0).otherwise((pl.col("on") - pl.col("off")).abs())
    scale = pl.max_horizontal(pl.col("on").abs(), pl.col("off").abs())
    # Equal infinities and zeros agree, although their difference or ratio is not a number.
    consistency = pl.when("equal").then(1.0).otherwise((1 - apart / scale).fill_null(0.0))
    found = numbers.select(consistency.mean().alias("consistency"), apart.mean().alias("skew")).collect()
    return found["consistency"].item(), found["skew"].item()


def _difference(row: Mapping[str, Any], keys: Sequence[str]) -> Difference:
    entity = {key: row[key] for key in keys}
    return Difference(entity, row["online"], row["online_status"], row["offline"], row["offline_status"])


def sample_entities(rows: pl.LazyFrame, keys: Sequence[str], count: int, seed: int) -> pl.DataFrame:
    """About ``count`` of the entities that rows tell of, each once, by their hash: no sort, keys read only.

    Every entity is as likely as any other, however many rows it has; another ``seed`` takes others.

    >>> rows = pl.LazyFrame({"card": [1, 1, 1, 2, 3]})
    >>> sample_entities(rows, ["card"], 5, seed=0)["card"].sort().to_list()
    [1, 2, 3]
    """
    mark = pl.struct(keys).hash(seed)
    held = rows.select(keys).filter(pl.all_horizontal(pl.col(key).is_not_null() for key in keys))
    there = held.select(mark.approx_n_unique()).collect(engine="streaming").item()
    share = _HASH_OVERDRAW * count / max(there, 1)
    drawn = held if share >= 1 else held.filter(mark <= pl.lit(int(share * 2**64), pl.UInt64))
    return drawn.unique().collect(engine="streaming").sort(mark).head(count)
