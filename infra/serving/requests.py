"""What may be asked: the bodies of requests, and how large they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import polars as pl

from features.entity import DataType
from infra.serving.problems import Problem, unreadable


class GetOnlineFeatures(msgspec.Struct, forbid_unknown_fields=True):
    """Features of some entities: ``features`` are references like "group:feature", or ``feature_service`` names one.

    ``entities`` has a list for each key column, one value per entity row. ``request`` has the request values, one for
    all rows or a list with one for each. ``include_feature_view_version_metadata`` is what Feast's client says; it
    changes nothing.
    """

    entities: dict[str, list[Any]]
    features: list[str] | None = None
    feature_service: str | None = None
    full_feature_names: bool = False
    request: dict[str, Any] | None = None
    include_feature_view_version_metadata: bool = False


class Push(msgspec.Struct, forbid_unknown_fields=True):
    """Whole feature rows of a group: ``df`` has a list for each of keys, event_timestamp and features.

    Times are ISO 8601, in UTC where they name no zone. With ``push_id`` the rows are taken once, however often they
    are sent within a week.
    """

    group: str
    df: dict[str, list[Any]]
    push_id: str | None = None


Body = TypeVar("Body", GetOnlineFeatures, Push)

_TEXTUAL: Mapping[Any, type] = {
    pl.Datetime: datetime,
    pl.Date: date,
    pl.Time: time,
    pl.Duration: timedelta,
    pl.Decimal: Decimal,
    pl.Binary: bytes,
}
"""What JSON has as text: times and durations in ISO 8601, decimals, and bytes in Base64."""


@dataclass(frozen=True)
class Limits:
    """How large a request may be: bytes of its body, entity rows, and features asked for."""

    body: int = 4_000_000
    entities: int = 1_000
    features: int = 1_000


def decoded(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """A body as what it asks; Problem where it is not JSON or not of that shape."""
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise unreadable(error) from error
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8: {error}") from error


def textual(dtypes: Mapping[str, DataType]) -> dict[str, type]:
    """The columns whose values JSON has as text, and what the text stands for."""
    kinds = {name: dtype.base_type() for name, dtype in dtypes.items()}
    return {name: _TEXTUAL[kind] for name, kind in kinds.items() if kind in _TEXTUAL}


def from_text(columns: Mapping[str, list[Any]], texts: Mapping[str, type], field: str) -> dict[str, list[Any]]:
    """Columns as they came, those of ``texts`` as what their text stands for; Problem where one is not."""
    found: dict[str, list[Any]] = {name: numbers(values) for name, values in columns.items()}
    for name, kind in texts.items():
        if name in found:
            try:
                found[name] = msgspec.convert(found[name], list[kind | None])  # type: ignore[valid-type]
            except msgspec.ValidationError as error:
                raise Problem(422, str(error), f"{field}.{name}") from error
            if kind is Decimal and not all(value is None or value.is_finite() for value in found[name]):
                raise Problem(422, "decimals are finite: give null for what is no number", f"{field}.{name}")
    return found


def numbers(values: Any) -> Any:
    """A list of numbers with all of them floats where some are: JSON writes 3 for 3.0; anything else as it is."""
    if isinstance(values, list) and {int, float} <= set(map(type, values)):
        return [float(value) if type(value) is int else value for value in values]
    return values


def check_size(asked: GetOnlineFeatures, limits: Limits) -> None:
    """Problem where a request asks for nothing, for two things at once, or for too much."""
    if (asked.features is None) == (asked.feature_service is None):
        raise Problem(422, "ask for `features` or for a `feature_service`, one of them", "features")
    if asked.features is not None and not 0 < len(asked.features) <= limits.features:
        raise Problem(422, f"ask for 1 to {limits.features:,} features, not {len(asked.features):,}", "features")
    if not asked.entities:
        raise Problem(422, "name the key columns, each with a list of values", "entities")
    lengths = {len(values) for values in asked.entities.values()}
    if len(lengths) > 1:
        raise Problem(422, "each key column must have as many values as the others", "entities")
    if max(lengths) > limits.entities:
        raise Problem(413, f"ask for at most {limits.entities:,} entities at once, not {max(lengths):,}", "entities")
