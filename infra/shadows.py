"""Names that a working folder must leave to the platform: those of its own packages.

Which of two packages of one name is found depends on how Python was started; then either ours or the
user's is not there, and nothing says so.
"""

from __future__ import annotations

from pathlib import Path

from features.errors import SettingsError

PACKAGES = ("features", "expectations", "infra", "flows")


def refuse_shadows(module: str = "") -> None:
    """Raise SettingsError where the working folder holds a module or package under the name of one of ours.

    A folder without ``__init__.py`` hides nothing and is left in peace (``infra/deploy.py`` is anybody's), unless
    ``module``, which somebody wants, would be in it. A checkout of ours is no such folder.
    """
    if Path("infra", Path(__file__).name).is_file():
        return
    wanted = Path(*module.split("."))
    for name in PACKAGES:
        folder = Path(name)
        found = [folder.with_suffix(".py"), folder / "__init__.py"]
        if name in wanted.parts[:1]:
            found += [wanted.with_suffix(".py"), wanted]
        for path in found:
            if path.exists():
                taken = Path.cwd() / path.parts[0]
                raise SettingsError(f"{taken} has the name of a package that featurefab consists of: rename it")
