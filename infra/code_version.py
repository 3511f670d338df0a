"""Which code makes a training set: the git commit of the definitions, else the version of the package."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code_version(folder: Path) -> str:
    """The package's version and, where a folder lies in a git checkout, its commit.

    "featurefab 1.2.0, commit 6f1c...", with "and changes" where tracked files differ from the commit.
    """
    package = f"featurefab {version('featurefab')}"
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return package
    changed = " and changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{package}, commit {commit}{changed}"


def _git(folder: Path, *arguments: str) -> str:
    """What git says; nothing without git or outside of a checkout."""
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
