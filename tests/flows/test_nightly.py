"""The night goes on where files have not come, and says so."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from features.errors import InvalidInput
from flows.nightly import take_in

NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.usefixtures("prefect")
def test_a_landing_without_a_file_for_us_does_not_end_the_night(tmp_path):
    assert take_in(str(tmp_path), NOW) == {"files": 0, "skipped": f"nothing in {tmp_path}"}
    (tmp_path / ".gitkeep").touch()
    assert take_in(str(tmp_path), NOW)["skipped"] == f"{tmp_path}: the folder is empty"
    (tmp_path / "README.txt").write_text("Put files here.")
    assert "no file below the path(s) feeds a known source" in take_in(str(tmp_path), NOW)["skipped"]


def test_a_landing_that_is_named_must_be_there(tmp_path):
    with pytest.raises(InvalidInput, match="there is no such folder"):
        take_in(str(tmp_path / "nowhere"), NOW)
