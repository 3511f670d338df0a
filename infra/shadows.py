"""Names that a working folder must leave to the platform: those of its own packages.

Which of two packages of one name is found depends on how Python was started; then either ours or the
user's is not there, and nothing says so.
"""

from __future__ import annotations

from pathlib import Path

from features.errors import SettingsError

PACKAGES = ("features", "expectations", "infra", "flows")


def refuse_shadows(module: str = "") -> None:
    """Raise SettingsError where the working folder holds Python files under the name of a package of ours.

    That is ``features.py``, or a folder ``features`` with such files in it; below it they are looked for
    only where ``module``, which somebody wants from there, would be. A checkout of ours is no such folder.
    """
    if Path("infra", Path(__file__).name).is_file():
        return
    wanted = Path(*module.split("."))
    for name in PACKAGES:
        folder = Path(name)
        found = [folder.with_suffix(".py"), *folder.glob("*.py")]
        if name in wanted.parts[:1]:
            found += [wanted.with_suffix(".py"), wanted]
        for path in found:
            if path.exists():
                taken = Path.cwd() / path.parts[0]
                raise SettingsError(f"{taken} has the name of a package that featurefab consists of: rename it")
