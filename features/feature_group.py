"""Feature groups: features of one entity, computed together from the same inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import date, timedelta
from typing import Any, Literal

import polars as pl

from features.checks import check_is, check_positive, check_several
from features.cron import check_cron
from features.elementwise import chooses_columns, not_elementwise
from features.entity import Entity, check_name
from features.errors import DefinitionError, InvalidInput
from features.prepare import check_prepare
from features.source import BOOKKEEPING, Source
from features.times import duration, micros

Grain = Literal["event", "entity", "window"]
Prepare = Callable[..., pl.LazyFrame]

EVENT_TIMESTAMP = "event_timestamp"
REQUEST_TIMESTAMP = "request_timestamp"
"""What derived expressions call the moment that is asked about: the entity row's time, online now."""
RESERVED = {
    EVENT_TIMESTAMP,
    REQUEST_TIMESTAMP,
    "created_timestamp",
    "_plan",
    "_as_if",
    "_epoch",
    "_deleted",
    *BOOKKEEPING,
}


@dataclass(frozen=True, eq=False)
class Feature:
    """One feature: a name, a Polars expression and what a reader must know of it.

    ``window`` (window grain only) is the span of event time it covers, ``range`` the closed
    interval of sane values in ``unit``, ``default`` the online answer when no store can be asked: where one
    can, a feature that is null or not found is answered so, online and in every history.
    """

    name: str
    expr: pl.Expr
    _: KW_ONLY
    window: str | None = None
    unit: str | None = None
    range: tuple[float | None, float | None] | None = None
    description: str = ""
    default: Any = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_name("feature", self.name)
        who = f"feature {self.name!r}"
        if self.name in RESERVED:
            raise DefinitionError(f"{who}: the name is reserved; choose another")
        check_is(who, "expr", self.expr, pl.Expr, "pl.col('amount').mean()")
        check_several(who, "tags", self.tags, str, "['payments']")
        if self.range is not None:
            _check_range(who, self.range)
        if self.window is not None:
            check_positive(who, "window", self.window)


@dataclass(frozen=True, eq=False)
class FeatureGroup:
    """Features of one entity with one grain, computed together, versioned and stored together.

    ``grain`` says what one row is: "event" (one per prepared source row), "entity" (over all the
    entity's rows so far, at each ``every`` boundary or once it was quiet for ``settle``), "window"
    (one per entity and ``every`` boundary b, over [b - window, b)). ``prepare`` is a LazyFrame →
    LazyFrame step before it that may look across rows only within ``prepare_by`` keys; it gets one
    frame, or one keyword frame per name where ``source`` is a mapping. Rows older than ``ttl``
    answer OUTSIDE_MAX_AGE; ``publish_delay`` is how long after its moment a row can be served at the
    earliest. ``schedule`` is a cron line, in the zone of the settings. Durations are Polars strings.
    From the date ``retire`` on (UTC), scheduled runs skip this major version; it can still be read.
    """

    name: str
    version: str
    entity: Entity
    source: Source | FeatureGroup | Mapping[str, Source | FeatureGroup]
    features: Sequence[Feature]
    _: KW_ONLY
    grain: Grain
    owner: str
    description: str
    prepare: Prepare | None = None
    prepare_by: Sequence[str] = ()
    every: str | None = None
    settle: str | None = None
    ttl: str | None = None
    publish_delay: str | None = None
    derived: Sequence[Feature] = ()
    on_conflict: Literal["last", "first"] = "last"
    schedule: str | None = None
    retention: str | None = None
    online: bool = True
    sla: str | None = None
    retire: date | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        return f"FeatureGroup({self.name!r}, {self.version!r}, {len(self.features)} features)"

    @property
    def major(self) -> int:
        """The major version; majors have tables of their own."""
        return int(self.version.split(".")[0])

    @property
    def table_id(self) -> str:
        """The group's name and major version, as tables, plans and online keys use it."""
        return f"{self.name}/v{self.major}"

    @property
    def inputs(self) -> dict[str, Source | FeatureGroup]:
        """The inputs by the name under which ``prepare`` gets them; the first one carries the time."""
        if isinstance(self.source, Mapping):
            return dict(self.source)
        return {self.source.name: self.source}

    @property
    def keys(self) -> list[str]:
        """The entity's key columns."""
        return self.entity.key_names

    @property
    def feature_names(self) -> list[str]:
        """The stored features, in declared order; derived ones are not stored."""
        return [f.name for f in self.features]

    @property
    def ttl_span(self) -> timedelta | None:
        """``ttl`` as a timedelta; None means never."""
        return duration(self.ttl) if self.ttl else None

    @property
    def delay(self) -> timedelta:
        """``publish_delay`` as a timedelta."""
        return duration(self.publish_delay or "0s")


def _check_range(who: str, bounds: object) -> None:
    match bounds:
        case (int() | float() | None as low, int() | float() | None as high):
            if low is None or high is None or low <= high:
                return
    raise DefinitionError(f"{who}: range {bounds!r} is not (lowest, highest): write it like (0, 100) or (0, None)")


def _check(group: FeatureGroup) -> None:
    """Everything about a group that can be wrong on its own, with the remedy."""
    check_name("feature group", group.name)
    who = f"feature group {group.name!r}"
    _check_kinds(group, who)
    parts = group.version.split(".")
    if len(parts) != 3 or not all(p.isdigit() for p in parts):
        raise DefinitionError(f"{who}: version {group.version!r} is not major.minor.patch, like '1.0.0'")
    names = [f.name for f in (*group.features, *group.derived)]
    if not group.features:
        raise DefinitionError(f"{who} has no features: add at least one")
    doubled = sorted({n for n, times in Counter(names).items() if times > 1} | (set(names) & set(group.keys)))
    if doubled:
        raise DefinitionError(f"{who}: the name(s) {doubled} are used twice; rename one of them")
    if not group.inputs:
        raise DefinitionError(f"{who} has no source: name at least one")
    if len(group.inputs) > 1 and (group.prepare is None or not group.prepare_by):
        raise DefinitionError(f"{who} has several inputs: give `prepare` and `prepare_by` to join them")
    if group.prepare is not None:
        check_prepare(who, group.prepare, group.inputs, named=isinstance(group.source, Mapping))
    delay = _check_times(group, who)
    _check_grain(group, who, delay)
    _check_expressions(group, who)


def _check_kinds(group: FeatureGroup, who: str) -> None:
    """Whether everything is what the annotations promise."""
    check_is(who, "version", group.version, str, "'1.0.0'")
    check_is(who, "entity", group.entity, Entity, "Entity('card', keys={'card_id': pl.String})")
    check_is(who, "owner", group.owner, str, "'payments-team'")
    check_is(who, "description", group.description, str, "'What a card was used for.'")
    for name, origin in group.inputs.items() if isinstance(group.source, Mapping) else [("source", group.source)]:
        if not isinstance(origin, Source | FeatureGroup):
            raise DefinitionError(f"{who}: {name} is {type(origin).__name__}, not a Source or FeatureGroup: give one")
    example = "[Feature('amount', pl.col('amount'))]"
    check_several(who, "features", group.features, Feature, example)
    check_several(who, "derived", group.derived, Feature, example)
    check_several(who, "prepare_by", group.prepare_by, str, "['card_id']")
    check_several(who, "tags", group.tags, str, "['payments']")
    if group.on_conflict not in ("last", "first"):
        raise DefinitionError(f"{who}: on_conflict {group.on_conflict!r} is neither 'last' nor 'first'")


def _check_expressions(group: FeatureGroup, who: str) -> None:
    """A row of grain "event" is one source row; of the others many, of which an expression makes one value."""
    for feature in group.features:
        reason = not_elementwise(feature.expr)
        if group.grain == "event" and reason is not None:
            raise DefinitionError(
                f"{who}: feature {feature.name!r} of grain 'event' must be element-wise: {reason}; "
                f"or look at other rows in `prepare`, or choose grain 'entity' or 'window'"
            )
        if group.grain != "event" and reason is None and feature.expr.meta.root_names():
            raise DefinitionError(
                f"{who}: feature {feature.name!r} of grain {group.grain!r} gives a value for each source row: "
                f"aggregate {str(feature.expr)!r}, like (...).mean() or (...).last()"
            )
    for feature in group.derived:
        check_derived(who, feature)


def check_derived(who: str, feature: Feature) -> None:
    """Refuse a derived feature (of ``who``) whose expression looks across rows, or hides what it reads."""
    this = f"{who}: derived feature {feature.name!r}"
    if reason := not_elementwise(feature.expr):
        raise DefinitionError(f"{this} must be element-wise: {reason}")
    if feature.default is not None:
        raise DefinitionError(f"{this} has a default: give one to each stored feature that it reads instead")
    if chooses_columns(feature.expr):
        raise DefinitionError(f"{this} takes several columns at once: name each by a pl.col(...) of its own")


def _check_times(group: FeatureGroup, who: str) -> int:
    """The durations and the schedule; returns the publish delay in microseconds."""
    for name in ("every", "settle", "ttl", "retention", "sla"):
        if (text := getattr(group, name)) is not None:
            check_positive(who, name, text)
    if group.publish_delay is not None:
        check_is(who, "publish_delay", group.publish_delay, str, "'15m'")
    try:
        delay = micros(group.delay)
    except Exception as error:
        raise DefinitionError(f"{who}: publish_delay: {error}") from error
    if group.schedule is not None:
        try:
            check_cron(group.schedule)
        except InvalidInput as error:
            raise DefinitionError(f"{who}: schedule: {error}") from error
    return delay


def _check_grain(group: FeatureGroup, who: str, delay: int) -> None:
    windows = [f for f in group.features if f.window is not None]
    if group.grain == "window":
        if group.every is None:
            raise DefinitionError(f"{who} has grain 'window' but no `every`: say how often, like every='1h'")
        if len(windows) < len(group.features):
            without = [f.name for f in group.features if f.window is None]
            raise DefinitionError(f"{who}: feature(s) {without} have no `window`; each needs one")
        longest = max(micros(f.window or "") for f in windows)
        needed = longest + micros(group.every) + delay
        if group.ttl is not None and micros(group.ttl) < needed:
            raise DefinitionError(
                f"{who}: ttl {group.ttl!r} is shorter than its largest window + every + publish_delay "
                f"({timedelta(microseconds=needed)}): raise it, or rows would expire before their windows empty"
            )
    elif windows:
        raise DefinitionError(f"{who}: feature {windows[0].name!r} has a window, but the grain is {group.grain!r}")
    if group.grain == "entity" and (group.every is None) == (group.settle is None):
        raise DefinitionError(f"{who} has grain 'entity': give either `every` or `settle`")
    if group.grain != "entity" and group.settle is not None:
        raise DefinitionError(f"{who}: `settle` goes with grain 'entity' only")
    if group.grain == "event" and group.every is not None:
        raise DefinitionError(f"{who}: `every` does not go with grain 'event'")
    if group.grain not in ("event", "entity", "window"):
        raise DefinitionError(f"{who}: grain {group.grain!r} is not 'event', 'entity' or 'window'")
