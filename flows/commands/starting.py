"""The command that begins a project of one's own."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from string import Template

import flows.starter
from features.errors import InvalidInput
from features.times import utc_now
from flows.console import clear_errors, out, print_json

_STARTER = Path(flows.starter.__file__).parent


def init(folder: Path, *, json: bool) -> None:
    """A starter project in a folder that is empty or not there yet; its data ends yesterday."""
    with clear_errors():
        files = _starter(utc_now())
        try:
            if folder.exists() and any(folder.iterdir()):
                raise InvalidInput(f"{folder} is not empty: name another folder")
            for name, text in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text, "utf-8")
        except OSError as error:
            raise InvalidInput(f"{folder} cannot be written ({error}): name another folder") from error
    if json:
        print_json({"folder": str(folder.absolute()), "files": list(files)})
        return
    for line in (*(str(folder / name) for name in files), f"Next: cd {folder}; its README.md says what to type."):
        out.print(line, markup=False, soft_wrap=True)


def _starter(now: datetime) -> dict[str, str]:
    """The text of every file of the starter by its name, with the dates of the two weeks before ``now``."""
    dates = {f"day{ago}": f"{now - timedelta(days=ago):%Y-%m-%d}" for ago in range(15)}
    names = [path.relative_to(_STARTER) for path in sorted(_STARTER.rglob("*")) if path.is_file()]
    own = [name for name in names if not name.parts[0].startswith("__")]  # the others make it a package of ours
    return {str(name): Template((_STARTER / name).read_text("utf-8")).substitute(dates) for name in own}
