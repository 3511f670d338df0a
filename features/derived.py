"""Derived features: element-wise Polars expressions over stored features and request values.

The same expression object runs offline over a frame and online over a request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from features.entity import DataType
from features.errors import DefinitionError, InvalidInput
from features.feature_group import Feature, FeatureGroup
from features.feature_service import FeatureService, Ref
from features.point_in_time import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT
from features.registry import Registry

_ROW = "_row"


@dataclass(frozen=True)
class Selection:
    """What a request resolves to: the refs to answer, what to read for them and what to derive.

    ``stored`` maps each group, as references name it, to the features read from it; ``names`` are the output columns in
    order; ``derived`` are (output name, feature, columns it may see by the name it uses).
    """

    refs: Sequence[Ref]
    stored: Mapping[str, Sequence[str]]
    names: Mapping[Ref, str]
    derived: Sequence[tuple[str, Feature, Mapping[str, str]]]
    request: Mapping[str, DataType]

    @property
    def outputs(self) -> list[str]:
        """The output columns, in order."""
        own = [self.names[ref] for ref in self.refs]
        return own + [name for name, _, _ in self.derived if name not in own]


def select(
    registry: Registry, features: FeatureService | Sequence[str], *, full_feature_names: bool = False
) -> Selection:
    """Resolve references or a service against the registry.

    Raises DefinitionError where two outputs would share a name, or a derived expression needs what
    is not there.
    """
    refs = registry.resolve(features)
    service = features if isinstance(features, FeatureService) else None
    names = {ref: ref.full_name if full_feature_names else ref.feature for ref in refs}
    doubled = sorted(n for n, times in Counter(names.values()).items() if times > 1)
    if doubled:
        raise DefinitionError(f"feature name(s) {doubled} come from several groups: ask with full_feature_names=True")
    stored: dict[str, dict[str, None]] = {}
    derived: list[tuple[str, Feature, Mapping[str, str]]] = []
    for ref in refs:
        group = registry.group(ref.head)
        own = {f.name: f for f in group.derived}.get(ref.feature)
        if own is None:
            stored.setdefault(ref.head, {})[ref.feature] = None
        else:
            derived.append((names[ref], own, _group_columns(ref.head, group, own, stored)))
    request = dict(service.request or {}) if service else {}
    for feature in service.derived if service else ():
        if feature.name in names.values():
            raise DefinitionError(f"derived feature {feature.name!r} has the name of another output: rename it")
        derived.append((feature.name, feature, _service_columns(registry, names, feature, request)))
    return Selection(refs, {name: list(read) for name, read in stored.items()}, names, derived, request)


def column(group: str, feature: str) -> str:
    """The column that holds a stored feature of a group (see ``Ref.head``) while a request is worked on."""
    return f"{group}__{feature}"


def evaluate(frame: pl.DataFrame, selection: Selection) -> pl.DataFrame:
    """Add the derived features to a frame with the stored columns (see ``column``) and request values."""
    for name, feature, columns in selection.derived:
        view = frame.with_row_index(_ROW).select(_ROW, *(pl.col(there).alias(used) for used, there in columns.items()))
        try:
            values = view.with_columns(feature.expr.alias(name))[name]
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise InvalidInput(f"derived feature {name!r} cannot be computed: {reason}; mend its expression") from error
        frame = frame.with_columns(values)
    return frame


def request_value(name: str, value: Any, dtype: DataType, rows: int) -> pl.Series:
    """A request value for each row in its declared type, from one for all or one for each.

    Raises InvalidInput where it is of another type or number.

    >>> request_value("basket", 30, pl.Float64, 2).to_list()
    [30.0, 30.0]
    """
    several = isinstance(value, pl.Series | list | tuple)
    try:
        found = pl.Series(name, value if several else [value] * rows).cast(dtype)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"request value {name!r} is not {dtype}: {str(error).splitlines()[0]}") from error
    if len(found) != rows:
        raise InvalidInput(
            f"request value {name!r} has {len(found)} value(s) for {rows} entity row(s): give one for each"
        )
    return found


def status(values: pl.Series, inputs: Sequence[pl.Series]) -> pl.Series:
    """The status of a derived feature per row: a missing value is as missing as its inputs are.

    ``inputs`` are the statuses of the stored features that it reads; request values have none.
    """
    frame = pl.DataFrame([values.alias("value"), *(s.alias(str(i)) for i, s in enumerate(inputs))])
    missing: pl.Expr = pl.lit(NULL_VALUE)
    for reason in (OUTSIDE_MAX_AGE, NOT_FOUND):
        so = pl.any_horizontal(pl.lit(False), pl.exclude("value") == reason)
        missing = pl.when(so).then(pl.lit(reason)).otherwise(missing)
    found = pl.when(pl.col("value").is_not_null()).then(pl.lit(PRESENT)).otherwise(missing)
    return frame.select(found.alias(values.name)).to_series()


def _group_columns(
    head: str, group: FeatureGroup, feature: Feature, stored: dict[str, dict[str, None]]
) -> dict[str, str]:
    """What a group's derived feature reads: features of the same group by short name."""
    columns = {}
    for root in feature.expr.meta.root_names():
        if root not in group.feature_names:
            where = f"derived feature {group.name}:{feature.name}"
            raise DefinitionError(f"{where} reads {root!r}, which is not a stored feature of its group")
        stored.setdefault(head, {})[root] = None
        columns[root] = column(head, root)
    return columns


def _service_columns(
    registry: Registry, names: Mapping[Ref, str], feature: Feature, request: Mapping[str, DataType]
) -> dict[str, str]:
    """What a service's derived feature reads: its features by short or full name, and request values."""
    columns = {}
    for root in feature.expr.meta.root_names():
        if root in request:
            columns[root] = root
            continue
        found = [ref for ref in names if root in (ref.feature, ref.full_name)]
        if len(found) != 1:
            problem = "is not among its features or request values" if not found else "is ambiguous: use the full name"
            raise DefinitionError(f"derived feature {feature.name!r} reads {root!r}, which {problem}")
        head, there = found[0].head, found[0].feature
        stored = there in registry.group(head).feature_names
        columns[root] = column(head, there) if stored else names[found[0]]
    return columns
