"""What docs/great_expectations.md says to type prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "great_expectations.md"


def test_the_page_is_true() -> None:
    found = re.search(r"```python\n(.*?)```\n\n    (.*?)\n", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    typed, printed = found.groups()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(typed, str(PAGE), "exec"), {})
    assert out.getvalue().splitlines()[-1] == printed
