"""Derived features: element-wise Polars expressions over stored features and request values.

The same expression object runs offline over a frame and online over a request. ``request_timestamp`` is
there for all of them: offline the entity row's time, online the moment of the request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from features.compute import stored_schema
from features.entity import DataType
from features.errors import DefinitionError, InvalidInput
from features.feature_group import REQUEST_TIMESTAMP, Feature, FeatureGroup
from features.feature_service import FeatureService, Ref
from features.point_in_time import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT
from features.registry import Registry
from features.row_closure import uncompiled as uncompiled_expression
from features.times import UTC_US

_ROW = "_row"


class Derivation(NamedTuple):
    """A derived feature in a request: its output name, and the columns it sees by the name it uses."""

    name: str
    feature: Feature
    columns: Mapping[str, str]

    def types(self, dtypes: Mapping[str, DataType]) -> dict[str, DataType]:
        """The types of what it sees, from those of all columns."""
        return {used: dtypes[there] for used, there in self.columns.items()}


@dataclass(frozen=True)
class Selection:
    """What a request resolves to: the refs to answer, what to read for them and what to derive.

    ``stored`` maps each group, as references name it (``Ref.place``), to the features read from it, ``reads``
    to one of those references; ``names`` are the output columns in order; ``derived`` are in the order in
    which they are computed.
    """

    refs: Sequence[Ref]
    stored: Mapping[str, Sequence[str]]
    names: Mapping[Ref, str]
    derived: Sequence[Derivation]
    request: Mapping[str, DataType]
    reads: Mapping[str, Ref]

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
    derived: list[Derivation] = []
    for ref in refs:
        group = registry.group(ref.head)
        own = {f.name: f for f in group.derived}.get(ref.feature)
        if own is None:
            stored.setdefault(ref.place, {})[ref.feature] = None
        else:
            derived.append(Derivation(names[ref], own, _group_columns(ref.place, group, own, stored)))
    request = dict(service.request or {}) if service else {}
    for feature in service.derived if service else ():
        if feature.name in names.values():
            raise DefinitionError(f"derived feature {feature.name!r} has the name of another output: rename it")
        derived.append(Derivation(feature.name, feature, _service_columns(registry, names, feature, request)))
    reads = {ref.place: ref for ref in refs}
    return Selection(refs, {place: list(read) for place, read in stored.items()}, names, derived, request, reads)


def column(place: str, feature: str) -> str:
    """The column that holds a stored feature of a group (see ``Ref.place``) while a request is worked on."""
    return f"{place}__{feature}"


def column_types(registry: Registry, selection: Selection) -> dict[str, DataType]:
    """The types of all columns while a request is worked on, those of derived features included.

    Raises DefinitionError where a derived expression does not fit what it reads.
    """
    found: dict[str, DataType] = {**selection.request, REQUEST_TIMESTAMP: UTC_US}
    for place, features in selection.stored.items():
        schema = stored_schema(registry.group(selection.reads[place].head))
        found |= {column(place, feature): schema[feature] for feature in features}
    for derivation in selection.derived:
        name, expr = derivation.name, derivation.feature.expr
        try:
            found[name] = pl.LazyFrame(schema=derivation.types(found)).select(expr.alias(name)).collect_schema()[name]
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise DefinitionError(
                f"derived feature {name!r} does not fit what it reads: {reason}; mend its expression"
            ) from error
    return found


def uncompiled(registry: Registry, item: FeatureGroup | FeatureService) -> dict[str, str]:
    """Which derived features of a group or service pay Polars' price per online request (80 µs), and why."""
    own = [str(Ref(item.name, f.name, item.major)) for f in item.derived] if isinstance(item, FeatureGroup) else item
    selection = select(registry, own, full_feature_names=True)
    dtypes = column_types(registry, selection)
    reasons = {d.feature.name: uncompiled_expression(d.feature.expr, d.types(dtypes)) for d in selection.derived}
    names = {f.name for f in item.derived}
    return {name: reason for name, reason in reasons.items() if reason is not None and name in names}


def evaluate(frame: pl.DataFrame, selection: Selection) -> pl.DataFrame:
    """Add the derived features to a frame with the stored columns (see ``column``) and request values."""
    for derivation in selection.derived:
        frame = frame.with_columns(derived_values(frame, derivation))
    return frame


def derived_values(frame: pl.DataFrame, derivation: Derivation) -> pl.Series:
    """A derived feature's values over a frame of what it reads.

    A row's answer is the same however many rows there are, and however the frame came about: for a chunk of
    one row, and for a column that holds one value for all rows, Polars takes other kernels, whose last bits
    differ. So one row is computed as two, and all columns are written out in one chunk.
    """
    name, feature, columns = derivation
    view = frame.with_row_index(_ROW).select(_ROW, *(pl.col(there).alias(used) for used, there in columns.items()))
    several = view.select(pl.all().gather([0, 0])) if view.height == 1 else view
    written_out = pl.DataFrame([values.rechunk() for values in several.get_columns()])
    try:
        return written_out.with_columns(feature.expr.alias(name)).get_column(name).head(view.height)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"derived feature {name!r} cannot be computed: {reason}; mend its expression") from error


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


def missing_status(inputs: Sequence[str]) -> str:
    """Why a derived feature has no value, from the statuses of the stored features that it reads."""
    return next((reason for reason in (NOT_FOUND, OUTSIDE_MAX_AGE) if reason in inputs), NULL_VALUE)


def _group_columns(
    head: str, group: FeatureGroup, feature: Feature, stored: dict[str, dict[str, None]]
) -> dict[str, str]:
    """What a group's derived feature reads: features of the same group by short name."""
    columns = {}
    for root in feature.expr.meta.root_names():
        if root == REQUEST_TIMESTAMP:
            columns[root] = root
            continue
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
        found = [ref for ref in names if root in (ref.feature, ref.full_name)]
        if root == REQUEST_TIMESTAMP or (root in request and not found):
            columns[root] = root
            continue
        if root in request:
            raise DefinitionError(
                f"derived feature {feature.name!r} reads {root!r}, which is both a feature and a request value: "
                f"rename the request value"
            )
        if len(found) != 1:
            problem = "is not among its features or request values" if not found else "is ambiguous: use the full name"
            raise DefinitionError(f"derived feature {feature.name!r} reads {root!r}, which {problem}")
        there = found[0].feature
        stored = there in registry.group(found[0].head).feature_names
        columns[root] = column(found[0].place, there) if stored else names[found[0]]
    return columns
