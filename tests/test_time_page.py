"""docs/time.md tells the truth: its program prints its tables, and what it says of them follows."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "time.md").read_text("utf-8")


def test_the_program_on_the_page_prints_the_tables_on_the_page(capsys):
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(program, "docs/time.md", "exec"), {"__name__": "time_page"})
    tables = [table for table in capsys.readouterr().out.split("\n\n") if table.strip()]
    assert len(tables) == 5
    places = [PAGE.find(f"\n\n{table}\n\n") for table in tables]
    assert places == sorted(places), "the tables stand in the order in which they are printed"
    assert -1 not in places, "\n\n".join(tables)
