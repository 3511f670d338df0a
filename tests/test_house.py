"""What holds for the whole project: its layers, its files and its habits."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("features", "expectations", "infra", "flows")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def named(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_every_folder_of_it_is_a_package(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    folders = {path.parent for path in MODULES if path.is_relative_to(ROOT / package)}
    assert folders
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_folder_of_tests_is_a_package_or_it_would_shadow_the_real_one() -> None:
    assert named(list((ROOT / "tests").rglob("__init__.py"))) == []


def test_test_files_have_names_of_their_own() -> None:
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_flow_file_is_named_like_a_package() -> None:
    """Prefect puts flows/ first on the path when it loads a flow by file."""
    assert [
        path.name for path in (ROOT / "flows").glob("*.py") if path.stem in (*PACKAGES, *sys.stdlib_module_names)
    ] == []


def test_files_fit_a_reader() -> None:
    lines = {name: path.read_text("utf-8").count("\n") for path, name in zip(MODULES, named(MODULES), strict=True)}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_no_module_imports_its_own_package_front() -> None:
    """``from features import X`` within features would tie the engine to its façade."""
    offenders = []
    for path in MODULES:
        package = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == package:
                modules = {entry.stem for entry in (ROOT / package).iterdir()}
                offenders += [f"{path.name}: {name.name}" for name in node.names if name.name not in modules]
    assert offenders == []


def test_the_fronts_import_no_heavy_library() -> None:
    program = (
        "import sys, features, expectations, infra, infra.wiring, flows;"
        "print(sorted({'prefect', 'mlflow', 'great_expectations', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_environment_is_read_in_one_module_only() -> None:
    readers = [
        f"{name}:{node.lineno}"
        for path, name in zip(MODULES, named(MODULES), strict=True)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv")
    ]
    allowed = ("infra/settings.py", "infra/mlflow_client.py")  # the second hides it from MLflow while it works
    assert [reader for reader in readers if not reader.startswith(allowed)] == []


def test_the_lock_is_hashed_complete_and_names_no_place_to_download_from() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    assert [line for line in lines if "://" in line or line.startswith("-")] == []
    pinned = {line.split("==")[0]: following for line, following in pairwise(lines) if "==" in line}
    assert [name for name, following in pinned.items() if "--hash=sha256:" not in following] == []
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    names = {re.split(r"[\[<>]", requirement)[0].strip() for requirement in wanted}
    assert names - pinned.keys() == set()


def test_the_license_named_is_the_license_shipped() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
