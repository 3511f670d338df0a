"""Rules: what a good row and a good table look like, written once and executed by two engines.

A rule is data. Great Expectations judges it for a whole batch (``expectations.engine``), and a Polars
mask made from the same rule says which rows broke it (``expectations.gate``); for single records a rule
is compiled (``expectations.rows``). Null and NaN both count as missing: only NotNull refuses them, every
other rule looks at the values that are there, and Unique takes a missing value for one like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from expectations.result import Severity
from features.compute import stored_schema
from features.entity import DataType
from features.errors import DefinitionError
from features.feature_group import EVENT_TIMESTAMP, FeatureGroup
from features.source import FILE_SHA256, Source
from features.times import UTC_US

FEW = 0.05
"""The share of failing values up to which they are few; above it a finding is high."""

Where = Mapping[str, str | int]
"""The rows a rule is about: those that have these values in these columns (none: every row)."""


@dataclass(frozen=True)
class ColumnPresent:
    """The table has the column. Critical where nothing works without it."""

    column: str
    severity: Severity = Severity.CRITICAL

    @property
    def name(self) -> str:
        """The rule's name in findings."""
        return f"{self.column}_present"

    def holds(self, schema: Mapping[str, DataType]) -> bool:
        """Whether a table of that schema keeps the rule."""
        return self.column in schema

    @property
    def complaint(self) -> str:
        """What is wrong when it does not hold."""
        return f"column {self.column!r} is missing"


@dataclass(frozen=True)
class HasType:
    """The column has exactly this type; a missing column is ColumnPresent's business."""

    column: str
    dtype: DataType
    severity: Severity = Severity.HIGH

    def __post_init__(self) -> None:
        if isinstance(self.dtype, type):
            object.__setattr__(self, "dtype", self.dtype())

    @property
    def name(self) -> str:
        """The rule's name in findings and in quarantine."""
        return f"{self.column}_type"

    def holds(self, schema: Mapping[str, DataType]) -> bool:
        """Whether a table of that schema keeps the rule."""
        return self.column not in schema or schema[self.column] == self.dtype

    @property
    def complaint(self) -> str:
        """What is wrong when it does not hold."""
        return f"column {self.column!r} is not {self.dtype}"


SchemaRule = ColumnPresent | HasType


@dataclass(frozen=True, kw_only=True, eq=False)
class RowRule(ABC):
    """A rule that each row keeps or breaks; a row that breaks one above LOW is rejected.

    A file in which more than the share ``tolerance`` of the checked values fails gets a finding of at
    least HIGH; None means that more failures are no worse than one.
    """

    name: str
    severity: Severity = Severity.MEDIUM
    tolerance: float | None = FEW
    where: Where = field(default_factory=dict)

    @property
    @abstractmethod
    def target(self) -> str:
        """The column whose values are checked."""

    @abstractmethod
    def broken(self) -> pl.Expr:
        """Boolean, true for a bad value; null counts as false."""

    @property
    @abstractmethod
    def complaint(self) -> str:
        """What is wrong with a bad value: "'result' is outside 1.0 to 1.4"."""

    @property
    def rejects(self) -> bool:
        """Whether a row that breaks the rule goes to quarantine."""
        return self.severity > Severity.LOW

    @property
    def columns(self) -> list[str]:
        """The columns the rule looks at."""
        return [*self.where, self.target]

    def domain(self) -> pl.Expr:
        """Boolean, true for the rows the rule is about."""
        return pl.all_horizontal(pl.lit(value=True), *(pl.col(c).eq_missing(v) for c, v in self.where.items()))

    def checked(self) -> pl.Expr:
        """Boolean, true for the rows whose value is judged."""
        return self.domain() & pl.col(self.target).is_not_null()

    def failing(self) -> pl.Expr:
        """Boolean without nulls, true for the rows that break the rule."""
        return self.domain() & self.broken().fill_null(value=False)

    def judge(self, failed: int, checked: int) -> Severity:
        """The severity of ``failed`` (> 0) failures among ``checked`` values of one file."""
        many = self.tolerance is not None and failed > self.tolerance * checked
        return max(self.severity, Severity.HIGH) if many else self.severity


@dataclass(frozen=True, kw_only=True, eq=False)
class NotNull(RowRule):
    """The value is there (neither null nor NaN); a file without a single one is critical."""

    column: str

    @property
    def target(self) -> str:
        """The column that must be filled."""
        return self.column

    def broken(self) -> pl.Expr:
        """True where the value is missing."""
        return pl.col(self.column).is_null()

    def checked(self) -> pl.Expr:
        """Every row of the domain is judged."""
        return self.domain()

    @property
    def complaint(self) -> str:
        """What is wrong with a bad value."""
        return f"{self.column!r} is missing"

    def judge(self, failed: int, checked: int) -> Severity:
        """As for every rule, but critical where all values are missing.

        >>> NotNull(name="x", column="x").judge(5, 5).label
        'critical'
        """
        return Severity.CRITICAL if failed == checked else super().judge(failed, checked)


@dataclass(frozen=True, kw_only=True, eq=False)
class Between(RowRule):
    """The value lies within [low, high], both ends included; None leaves an end open.

    Values are compared as floats, which is how Great Expectations takes the bounds. ``unit`` is for people to read.

    >>> rule = Between(name="vdd_range", column="result", low=1.0, high=1.4, where={"test_name": "vdd"})
    >>> tests = pl.DataFrame({"test_name": ["vdd", "vdd", "idd"], "result": [1.2, 1.5, 80.0]})
    >>> tests.filter(rule.failing()).rows()
    [('vdd', 1.5)]
    """

    column: str
    low: float | None = None
    high: float | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise DefinitionError(f"rule {self.name!r} has no bound: give low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DefinitionError(f"rule {self.name!r}: low {self.low} is above high {self.high}; swap them")

    @property
    def target(self) -> str:
        """The column whose values are checked."""
        return self.column

    def broken(self) -> pl.Expr:
        """True outside the range."""
        value = pl.col(self.column)
        below = [] if self.low is None else [value < float(self.low)]
        above = [] if self.high is None else [value > float(self.high)]
        return pl.any_horizontal(*below, *above)

    @property
    def complaint(self) -> str:
        """What is wrong with a bad value."""
        unit = f" {self.unit}" if self.unit else ""
        if self.low is None:
            return f"{self.column!r} is above {self.high}{unit}"
        if self.high is None:
            return f"{self.column!r} is below {self.low}{unit}"
        return f"{self.column!r} is outside {self.low} to {self.high}{unit}"


@dataclass(frozen=True, kw_only=True, eq=False)
class InSet(RowRule):
    """The value is one of a few; others are unexpected categories, however many there are."""

    column: str
    values: Sequence[str | int]
    tolerance: float | None = None

    @property
    def target(self) -> str:
        """The column whose values are checked."""
        return self.column

    def broken(self) -> pl.Expr:
        """True for any other value."""
        return ~pl.col(self.column).is_in(list(self.values))

    @property
    def complaint(self) -> str:
        """What is wrong with a bad value."""
        return f"{self.column!r} is none of {list(self.values)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Unique(RowRule):
    """No two rows have the same values in these columns; a missing value is the same as another one.

    >>> rule = Unique(name="once", among=["shop", "bill"], where={"kind": "sale"})
    >>> bills = pl.DataFrame({"kind": ["sale", "sale", "sale", "void"], "shop": "a", "bill": [1, 2, 2, 1]})
    >>> bills.filter(rule.failing()).rows()
    [('sale', 'a', 2), ('sale', 'a', 2)]
    """

    among: Sequence[str]

    def __post_init__(self) -> None:
        if len(set(self.among)) < max(2, len(self.among)):
            raise DefinitionError(
                f"rule {self.name!r}: `among` is {list(self.among)}: name two or more columns, each once "
                f"({FILE_SHA256!r} is one where each file is looked at by itself)"
            )

    @property
    def target(self) -> str:
        """The columns that tell rows apart, for people to read."""
        return ", ".join(self.among)

    @property
    def columns(self) -> list[str]:
        """The columns the rule looks at."""
        return [*self.where, *self.among]

    def broken(self) -> pl.Expr:
        """True where another row that the rule is about has the same values."""
        return pl.len().over([*self.among, self.domain()]) > 1

    def checked(self) -> pl.Expr:
        """Every row of the domain is judged."""
        return self.domain()

    @property
    def complaint(self) -> str:
        """What is wrong with a bad row."""
        return f"{self.target} are the same as in another row"


@dataclass(frozen=True, kw_only=True, eq=False)
class Expression(RowRule):
    """A rule of one's own: a Polars expression that is true for a good row; null passes.

    It is computed once into a Boolean column, which both engines then check.
    """

    ok: pl.Expr
    why: str

    @property
    def target(self) -> str:
        """The Boolean column that holds the expression's outcome."""
        return f"rule:{self.name}"

    def broken(self) -> pl.Expr:
        """True where the expression is false."""
        return ~pl.col(self.target)

    @property
    def complaint(self) -> str:
        """What is wrong with a bad row."""
        return self.why


@dataclass(frozen=True, eq=False)
class Suite:
    """The rules of one table. Raises DefinitionError where two rules share a name.

    ``derived`` are columns computed from a row before the rules are applied; rules may name them, the
    data keeps its own columns. ``empty`` is the severity of a delivery without any row.
    """

    name: str
    schema: Sequence[SchemaRule]
    rows: Sequence[RowRule]
    derived: Mapping[str, pl.Expr] = field(default_factory=dict)
    empty: Severity = Severity.HIGH

    def __post_init__(self) -> None:
        names = [rule.name for rule in (*self.schema, *self.rows)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DefinitionError(f"suite {self.name!r} has two rules called {twice}: rename one of each")

    @property
    def computed(self) -> dict[str, pl.Expr]:
        """Every column to compute from a row: the derived ones and the outcomes of expressions."""
        return {**self.derived, **{rule.target: rule.ok for rule in self.rows if isinstance(rule, Expression)}}


def suite_for(
    source: Source,
    *,
    required: Sequence[str] | None = None,
    rows: Sequence[RowRule] = (),
    derived: Mapping[str, pl.Expr] | None = None,
    empty: Severity = Severity.HIGH,
) -> Suite:
    """The suite that a source's definition implies: its columns, types, required values, and one row a record.

    Required are the event time and the keys unless said otherwise; ``rows`` adds rules to them. Rows of
    equal keys and event time are one record, of which the latest counts. Another file may always correct a
    record. Two rows for it in one file are no fault of the rows, so both land whatever their number; but the
    file then says twice what only counts once, and ``record_unique`` says so, at severity LOW.
    """
    keys = [] if source.keys is None else list(source.keys)
    if required is None:
        required = list(dict.fromkeys([source.event_timestamp, *keys]))
    record = list(dict.fromkeys([FILE_SHA256, *keys, source.event_timestamp]))
    once = Unique(name="record_unique", among=record, severity=Severity.LOW, tolerance=None)
    return Suite(
        source.name,
        schema=_schema(source.dtypes, needed=[*required, *keys]),
        rows=[*_filled(required), *([once] if keys else []), *rows],
        derived=derived or {},
        empty=empty,
    )


def suite_of_group(
    group: FeatureGroup, *, rows: Sequence[RowRule] = (), derived: Mapping[str, pl.Expr] | None = None
) -> Suite:
    """The suite that a feature group's definition implies, for the rows that one push writes; ``rows`` adds rules.

    Keys and event_timestamp are there and name a row once; columns have the types they are stored in; a
    feature keeps its ``range``, in its ``unit``. A feature may be null: its answer is then NULL_VALUE, and
    the range says nothing. How old a row may be (``ttl``) is no matter of the row.
    """
    record = [*group.keys, EVENT_TIMESTAMP]
    ranges = [
        Between(name=f"{feature.name}_range", column=feature.name, low=low, high=high, unit=feature.unit)
        for feature in group.features
        for low, high in [feature.range or (None, None)]
        if (low, high) != (None, None)
    ]
    return Suite(
        group.name,
        schema=_schema({**stored_schema(group), EVENT_TIMESTAMP: UTC_US}, needed=record),
        rows=[*_filled(record), Unique(name="row_unique", among=record, severity=Severity.HIGH), *ranges, *rows],
        derived=derived or {},
    )


def _schema(dtypes: Mapping[str, DataType], needed: Sequence[str]) -> list[SchemaRule]:
    """Every column is there in its type; critical are those without which no row can be used."""
    absent = {column: Severity.CRITICAL if column in needed else Severity.MEDIUM for column in dtypes}
    return [
        *(ColumnPresent(column, severity) for column, severity in absent.items()),
        *(HasType(column, dtype) for column, dtype in dtypes.items()),
    ]


def _filled(columns: Sequence[str]) -> list[RowRule]:
    return [NotNull(name=f"{column}_not_null", column=column) for column in columns]
