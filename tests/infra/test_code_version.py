"""Which code made a training set."""

from __future__ import annotations

import subprocess
from importlib.metadata import version

from infra.code_version import code_version

PACKAGE = f"featurefab {version('featurefab')}"


def test_outside_of_a_checkout_it_is_the_package(tmp_path):
    assert code_version(tmp_path) == PACKAGE


def test_in_a_checkout_it_is_the_commit_and_whether_files_differ(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "definitions.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "Begin")
    commit = git("rev-parse", "HEAD")
    assert code_version(tmp_path) == f"{PACKAGE}, commit {commit}"
    (tmp_path / "notes.txt").write_text("not tracked")
    code_version.cache_clear()
    assert code_version(tmp_path) == f"{PACKAGE}, commit {commit}"
    (tmp_path / "definitions.py").write_text("a = 2\n")
    code_version.cache_clear()
    assert code_version(tmp_path) == f"{PACKAGE}, commit {commit} and changes"
