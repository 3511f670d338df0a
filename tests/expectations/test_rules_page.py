"""What docs/rules.md says to type prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rules.md").read_text("utf-8")


def test_the_page_is_true() -> None:
    typed = re.findall(r"```python\n(.*?)```\n", PAGE, re.DOTALL)
    (printed,) = re.findall(r"^    (\[.*)\n", PAGE, re.MULTILINE)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile("\n".join(typed), "docs/rules.md", "exec"), {})
    assert out.getvalue().splitlines() == [printed]
