"""Which input columns a group's features are made of, as observed and not as typed in.

The group's ``prepare`` runs over empty sources that note which columns Polars' optimizer asks them for
when one feature is selected: exactly those that its value or the choice of rows needs. That goes through
joins, filters, group_by, windows and user functions alike. What over-reports is marked: a struct or an
unpivot asks for all its columns, and of a function over frames nobody knows what it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import polars as pl
from polars.io.plugins import register_io_source

from features.compute import first_time, input_dtypes
from features.errors import DefinitionError
from features.feature_group import Feature, FeatureGroup
from features.inputs import ARRIVAL
from features.prepare import run_prepare
from features.times import UTC_US

Column = tuple[str, str]
"""The name of a group's input, as ``prepare`` knows it, and of a column of it."""

ASSUMED = "assumed"
"""The mark of columns that are all there are: the function could not be run on no rows, or collects."""

OVER_REPORTED = "over-reported"
"""The mark of columns of which some may not matter: they pass through a step as a whole."""

_WHOLE = re.compile(r"\bas_struct\(|\.struct\.|\bUNNEST\b|\bUNPIVOT\b|\bOPAQUE_PYTHON\b|\bMAP_GROUPS\b")
"""Steps in a printed plan that ask for more columns than they need."""

_MANY = 200
"""So many columns are asked for one by one; more by halves of them, twice for each binary digit of their number."""


@dataclass(frozen=True)
class Traced:
    """Columns that something is made of, and what is to be known of how they were found."""

    columns: frozenset[Column]
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class GroupTrace:
    """What a group reads: columns that decide which rows there are, and those behind each stored feature.

    ``structure`` are keys, times, filters and join columns; a count has no columns but these.
    """

    structure: Traced
    values: Mapping[str, Traced]


@cache
def trace(group: FeatureGroup) -> GroupTrace:
    """The columns behind each stored feature of a group; nothing is read.

    Raises DefinitionError where ``prepare`` does not fit its inputs.
    """
    tracer = _Tracer(group)
    roots = {f.name: tracer.roots(f) for f in group.features}
    found = tracer.units([frozenset(names) for names in roots.values() if names])
    values = {}
    for feature in group.features:
        names = roots[feature.name]
        if names is None:
            values[feature.name] = tracer.value(tracer.asked_for([feature.expr]), [])
        elif not names:
            values[feature.name] = Traced(frozenset())
        else:
            whole = frozenset(names)
            parts = [whole] if whole in found else [frozenset([name]) for name in names]
            values[feature.name] = tracer.value(_union([found[part] for part in parts]), names)
    return GroupTrace(tracer.structure, values)


def _union(parts: Sequence[Traced]) -> Traced:
    return Traced(frozenset().union(*(p.columns for p in parts)), frozenset().union(*(p.marks for p in parts)))


class _Tracer:
    """A group's prepared frame over sources that note what they are asked for."""

    def __init__(self, group: FeatureGroup) -> None:
        self._group = group
        self._asked: set[Column] = set()
        self._schemas = {n: {**input_dtypes(o), ARRIVAL: UTC_US} for n, o in group.inputs.items()}
        self._frame = self._prepared({name: self._source(name) for name in self._schemas})
        self._eager = self._noted()  # what a prepare that collects has read of its own accord
        self._names = set(self._schema())

    def roots(self, feature: Feature) -> list[str] | None:
        """The prepared columns that a feature's expression names; None where it takes them by pattern."""
        names = list(dict.fromkeys(feature.expr.meta.root_names()))
        # A selector names nothing and counts on what is there.
        by_pattern = feature.expr.meta.has_multiple_outputs() or not self._names.issuperset(names)
        return None if by_pattern else names

    def units(self, sets: Sequence[frozenset[str]]) -> dict[frozenset[str], Traced]:
        """What is asked for by each set of prepared columns, or by each single column where these are fewer."""
        units = list(dict.fromkeys(sets))
        columns = frozenset().union(*units)
        if len(columns) < len(units):
            units = [frozenset([column]) for column in columns]
        if len(units) <= _MANY or self._group.prepare is None:
            return {unit: self.asked_for(sorted(unit)) for unit in units}
        return self._by_halves(units)

    def _by_halves(self, units: Sequence[frozenset[str]]) -> dict[frozenset[str], Traced]:
        """The same with two questions for each binary digit of a unit's number, not one for each unit.

        A column that the units with a digit 1 ask for and those with a 0 do not, belongs to units with a 1
        there. One that several units need may so be credited to others as well, and is marked.
        """
        found: list[set[Column]] = [set() for _ in units]
        answers = []
        for digit in range((len(units) - 1).bit_length()):
            halves: tuple[set[str], set[str]] = (set(), set())
            for number, unit in enumerate(units):
                halves[number >> digit & 1].update(unit)
            answers.append(tuple(self.asked_for(sorted(half)) for half in halves))
        marks = _union([half for pair in answers for half in pair]).marks
        shared = set()
        for column in _union([half for pair in answers for half in pair]).columns:
            numbers = [0]
            for digit, (without, having) in enumerate(answers):
                if column in having.columns:
                    numbers = [n | 1 << digit for n in numbers] + (numbers if column in without.columns else [])
            if len(numbers) > 1:
                shared.add(column)
            for number in numbers:
                if number < len(units):
                    found[number].add(column)
        unsure = shared - self.structure.columns
        more = [marks | {OVER_REPORTED} if columns & unsure else marks for columns in found]
        return {unit: Traced(frozenset(c), m) for unit, c, m in zip(units, found, more, strict=True)}

    def asked_for(self, wanted: Sequence[str | pl.Expr]) -> Traced:
        """The columns that the sources are asked for when these columns or expressions are selected."""
        if self._group.prepare is None and all(isinstance(c, str) for c in wanted):
            return Traced(frozenset((next(iter(self._schemas)), str(c)) for c in wanted))
        plan = self._frame.select(wanted)
        try:
            plan.collect(engine="in-memory")  # half the time of the streaming engine on no rows
        except (Exception, pl.exceptions.PanicException):  # noqa: BLE001 - a user's function may raise anything when it gets no rows
            self._noted()
            every = {(n, c) for n, schema in self._schemas.items() for c in schema if c != ARRIVAL}
            return Traced(frozenset(every), frozenset([ASSUMED]))
        marks = {ASSUMED} if self._eager else set()
        if self._passes_wholes and _WHOLE.search(plan.explain()):
            marks.add(OVER_REPORTED)
        return Traced(self._noted() | self._eager, frozenset(marks))

    def value(self, traced: Traced, roots: Sequence[str]) -> Traced:
        """Of what a feature asks for the columns that its value is made of.

        Those that no row needs, and those that the expression names itself. Where that leaves nothing
        they also decide which rows there are, and cannot be told apart from those that only do that; nor
        can they where keys and times, too, come out of a step that asks for everything.
        """
        if traced.marks & self.structure.marks:
            return traced
        first = {c: n for n in reversed(self._schemas) for m, c in traced.columns if m == n and c in roots}
        named = {(n, c) for c, n in first.items()}  # of inputs joined by a column of that name the first
        found = frozenset(traced.columns - self.structure.columns | named)
        if not found:
            found = traced.columns - self._rows
        return Traced(found, traced.marks) if found else Traced(traced.columns, traced.marks | {OVER_REPORTED})

    @cached_property
    def structure(self) -> Traced:
        """What is asked for when only keys and event time are selected."""
        return self.asked_for([*self._group.keys, first_time(self._group)])

    @cached_property
    def _rows(self) -> frozenset[Column]:
        """What is asked for to count rows: filters and joins, without keys and time for their own sake."""
        # Where a count needs no column, Polars takes any: one that no key or time needs was such.
        return self.asked_for([pl.len()]).columns & self.structure.columns

    @cached_property
    def _passes_wholes(self) -> bool:
        printed = self._frame.explain(optimized=False)
        return any(_WHOLE.search(text) for text in (printed, *(str(f.expr) for f in self._group.features)))

    def _source(self, name: str) -> pl.LazyFrame:
        schema = pl.Schema(self._schemas[name])

        def read(
            with_columns: list[str] | None, _predicate: pl.Expr | None, _rows: int | None, _batch: int | None
        ) -> Iterator[pl.DataFrame]:
            columns = list(schema) if with_columns is None else with_columns
            self._asked.update((name, column) for column in columns if column != ARRIVAL)
            yield pl.DataFrame(schema={column: schema[column] for column in columns})

        # Pure: a source that prepare reads several times is scanned once.
        return register_io_source(read, schema=schema, is_pure=True)

    def _prepared(self, frames: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
        group = self._group
        if group.prepare is None:
            return next(iter(frames.values()))
        named = isinstance(group.source, Mapping)
        return run_prepare(f"feature group {group.name!r}", group.prepare, frames, named=named)

    def _schema(self) -> Mapping[str, pl.DataType]:
        try:
            return self._frame.collect_schema()
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise DefinitionError(
                f"feature group {self._group.name!r}: `prepare` does not fit its inputs: {reason}"
            ) from error

    def _noted(self) -> frozenset[Column]:
        """The columns asked for since the last call."""
        noted = frozenset(self._asked)
        self._asked.clear()
        return noted
