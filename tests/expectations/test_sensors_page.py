"""What docs/sensors.md says to type prints what it says, and its table has every rule."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from expectations.rig import Kind

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sensors.md").read_text("utf-8")


def test_the_page_is_true() -> None:
    found = re.search(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", PAGE, re.DOTALL)
    assert found is not None
    typed, printed = found.groups()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(typed, "docs/sensors.md", "exec"), {})
    assert out.getvalue().splitlines() == [line.removeprefix("    ") for line in printed.splitlines()]


def test_the_table_has_every_rule_with_its_severity() -> None:
    rows = re.findall(r"^\| .*_(\w+)` \| (\w+) \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted((kind.label, kind.severity.label) for kind in Kind)
