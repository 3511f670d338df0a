"""Derived features of an online request: closures for few rows, Polars for many or where none compiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from features.derived import Derivation, Selection, column_types, derived_values, missing_status
from features.entity import DataType
from features.point_in_time import PRESENT
from features.registry import Registry
from features.row_closure import RowClosure, row_closure

_FEW_ROWS = 80
"""Up to here closures are faster: one costs 1 to 2 µs a row, Polars 80 to 150 µs and next to nothing a row."""


@dataclass(frozen=True)
class OnlineDerivation:
    """A derived feature ready to be answered: what it reads, of which types, and its closure if it has one."""

    derivation: Derivation
    types: Mapping[str, DataType]
    closure: RowClosure | None

    @property
    def reads(self) -> list[str]:
        """The columns that it reads while a request is worked on."""
        return list(self.derivation.columns.values())

    def values(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[Any]:
        """Its value in each row of a request.

        Raises InvalidInput where the expression cannot be computed over these values.
        """
        if self.closure is not None and rows <= _FEW_ROWS:
            names, inputs = tuple(self.derivation.columns), [columns[there] for there in self.reads]
            each = zip(*inputs, strict=True) if inputs else [()] * rows
            try:
                return [self.closure(dict(zip(names, values, strict=True))) for values in each]
            except OverflowError:
                pass  # a strict cast that does not fit: Polars says it better
        frame = pl.DataFrame([pl.Series(c, columns[c], dtype=self.types[c]) for c in dict.fromkeys(self.reads)])
        if not self.reads:
            frame = pl.DataFrame({"_": [None] * rows})
        return derived_values(frame, self.derivation).to_list()

    def statuses(self, values: Sequence[Any], inputs: Sequence[Sequence[str]]) -> list[str]:
        """The status of each value; ``inputs`` are those of the stored and derived features that it reads."""
        each = zip(*inputs, strict=True) if inputs else [()] * len(values)
        return [PRESENT if v is not None else missing_status(s) for v, s in zip(values, each, strict=True)]


def online_derivations(registry: Registry, selection: Selection) -> tuple[list[OnlineDerivation], dict[str, DataType]]:
    """The derived features of a selection, compiled where that is possible, and the types of all columns.

    Raises DefinitionError where one does not fit what it reads.
    """
    dtypes = column_types(registry, selection)
    compiled = [
        OnlineDerivation(d, {c: dtypes[c] for c in d.columns.values()}, row_closure(d.feature.expr, d.types(dtypes)))
        for d in selection.derived
    ]
    return compiled, dtypes
