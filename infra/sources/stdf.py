"""STDF V4 wafer-test files as the sources ``wafers``, ``parts`` and ``test_results``."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from features.definitions.wafer_sources import parts, test_results, wafers
from features.errors import InvalidInput, UnreadableFile
from features.source import RECORD_OFFSET, Source
from infra.sources.base import Delivery
from infra.sources.stdf_parts import Insertions, part_rows
from infra.sources.stdf_records import Records, load
from infra.sources.stdf_results import result_rows
from infra.sources.stdf_wafers import find_wafers, wafer_rows
from infra.sources.unpack import COMPRESSED, inner_suffix, unpacked

SOURCES = (wafers, parts, test_results)
"""What every STDF file feeds."""


class StdfReader:
    """Reads .stdf and .std files, plain or as .gz, .bz2 or .zip.

    ``default_die_mm`` is the (width, height) of a die where the file's WCR gives none; ``scratch`` the
    folder for temporary files (None: the system's).

    RESULT and limits are in the base unit that UNITS names; RES_SCAL and its kin only say how to
    display them, and are not applied. STDF has no time per part, so ``tested_at`` follows a rule:

    - Parts of a wafer end in file order, between the wafer's start (WIR, else MIR) and its finish
      (WRR, else MRR), never later than the finish.
    - Where every part of the wafer has a TEST_T and their sum does not run past the finish, a part
      ends at the start plus the TEST_T of the touchdowns through its own. A touchdown is the parts
      tested side by side and takes as long as its slowest; its parts end one microsecond apart.
    - Otherwise the parts are spread evenly over (start, finish], the last one at the finish.
    - Without a finish the parts end TEST_T, else one microsecond, after one another, and the last
      one's end is the wafer's finish; without a start the same counts back from the finish. A TEST_T
      that leads out of what STDF can date, 1970 to 2106, is not believed.
    - A result outside any part has its wafer's finish: by then it was certainly known.

    Times are strictly increasing in file order, except on a wafer with more parts than microseconds
    between start and finish (an instant, mostly), where parts tie.

    A file cut in mid-record or without an MRR delivers its whole records with ``truncated_at``; a
    result whose part was not closed by then has no part.
    """

    def __init__(self, default_die_mm: tuple[float, float] | None = None, scratch: Path | None = None) -> None:
        self._default_die_mm = default_die_mm
        self._scratch = scratch

    def accepts(self, path: Path) -> bool:
        """Whether it is named .stdf or .std, compressed or not, or only .gz, .bz2 or .zip.

        >>> [StdfReader().accepts(Path(n)) for n in ("a.STDF", "a.std.gz", "lot2.zip", "a.csv.gz")]
        [True, True, True, False]
        """
        inner = inner_suffix(path)
        return inner in {".stdf", ".std"} or (not inner and path.suffix.lower() in COMPRESSED)

    def read(self, path: Path) -> Delivery:
        """The file's three tables. Raises UnreadableFile for what is corrupt, no STDF V4, or without any time."""
        with unpacked(path, self._scratch) as file:
            loaded = load(file, self._scratch)
        return Delivery(_tables(loaded.records, self._default_die_mm), loaded.truncated_at, loaded.note)


def _tables(records: Records, default_die_mm: tuple[float, float] | None) -> dict[str, pl.DataFrame]:
    spans = find_wafers(records)
    insertions = Insertions(records)
    wafer_frame = wafer_rows(records, spans, default_die_mm)
    part_frame = part_rows(records, spans, wafer_frame, insertions)
    wafer_frame = _with_parts(wafer_frame, part_frame)
    owners = pl.concat([part_frame, wafer_frame.with_columns(tested_at="finish_time")], how="diagonal")
    results = result_rows(records, insertions, owners, spans)
    return {s.name: _conformed(s, rows) for s, rows in zip(SOURCES, (wafer_frame, part_frame, results), strict=True)}


def _with_parts(wafer_frame: pl.DataFrame, part_frame: pl.DataFrame) -> pl.DataFrame:
    """The wafers with what their parts tell: counts, and the finish where the file does not say."""
    counts = part_frame.group_by("wafer_index").agg(
        part_count=pl.len(), good_count=pl.col("passed").sum(), last=pl.col("tested_at").max()
    )
    return wafer_frame.join(counts, on="wafer_index", how="left", maintain_order="left").with_columns(
        pl.col("part_count", "good_count").fill_null(0),
        finish_time=pl.coalesce("finish_time", "last", "start_time"),
    )


def _conformed(source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    try:
        return source.conform(rows).with_columns(rows[RECORD_OFFSET])
    except InvalidInput as error:
        raise UnreadableFile(str(error)) from error
