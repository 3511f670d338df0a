"""The README tells the truth: its tour runs as printed, its tables are complete, its links lead somewhere.

The tour's blocks run in their order in one shell, in an empty folder. A block below ``<!-- file: NAME -->``
is saved under that name, a ``bash`` block is run, a ``text`` block is what the block before it printed:
line by line, however the columns are spaced; "…" stands for the rest of a line, and alone for any lines.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import typer

from features.definitions import REGISTRY
from flows.cli import app
from infra.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = "-- block"

_BLOCK = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is, where it is saved (if it is a file), and its lines."""

    kind: str
    file: str | None
    body: str


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title!r}"
    return found[2]


TOUR = [Block(m["kind"], m["file"], m["body"]) for m in _BLOCK.finditer(section("Ten-minute tour"))]


def script(blocks: list[Block]) -> str:
    """The tour as one shell script that says, on both streams, which block begins."""
    lines = []
    for number, block in enumerate(blocks):
        lines.append(f"echo '{MARK} {number}'; echo '{MARK} {number}' >&2")
        if block.file:
            lines += [f"mkdir -p $(dirname {block.file})", f"cat > {block.file} <<'END OF FILE'"]
            lines.append(block.body + "END OF FILE")
        elif block.kind == "bash":
            lines.append(block.body)
    return "\n".join(lines) + "\n"


def run(command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run a command in a folder with nothing of this process's environment; a failure shows what it printed."""
    environment = environment or {"PATH": os.defpath}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def follow(folder: Path, binaries: Path, extra: Mapping[str, str] | None = None) -> dict[int, str]:
    """Run the tour in an empty folder; what each block printed."""
    user, work, tour = folder / "user", folder / "work", folder / "tour.sh"
    user.mkdir()
    work.mkdir()
    tour.write_text(script(TOUR), "utf-8")
    environment = {"PATH": f"{binaries}{os.pathsep}{os.defpath}", "HOME": str(user), **(extra or {})}
    done = run(["bash", "-eu", str(tour)], work, environment)
    spoken = [line for line in done.stderr.splitlines() if not line.startswith(MARK)]
    assert spoken == [], f"a tour without trouble complains of nothing:\n{done.stderr}"
    assert list(user.iterdir()) == [], "the tour writes below its own folder only"
    parts = re.split(rf"^{MARK} (\d+)\n", done.stdout, flags=re.MULTILINE)
    return dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))


def check_outputs(printed: Mapping[int, str]) -> None:
    """Each ``text`` block is found in what the block before it printed."""
    shown = [number for number, block in enumerate(TOUR) if block.kind == "text"]
    assert shown
    for number in shown:
        output = _tidy(printed[number - 1])
        expected = re.escape(_tidy(TOUR[number].body)).replace("\n…\\\n", "\n(?:.*\n)*?").replace("…", ".*")
        assert re.search(f"^{expected}", output, re.MULTILINE), (
            f"the README shows\n{TOUR[number].body}\nbut the tour printed\n{output}"
        )


def _tidy(text: str) -> str:
    return "".join(" ".join(line.split()) + "\n" for line in text.splitlines() if line.strip())


def test_every_block_of_the_tour_is_run_saved_or_compared() -> None:
    assert len(TOUR) > 10
    for number, block in enumerate(TOUR):
        assert block.file or block.kind in ("bash", "text"), f"nothing is done with this block:\n{block.body}"
        assert block.kind != "text" or TOUR[number - 1].kind == "bash", f"output of what?\n{block.body}"


def test_the_tour_runs_as_printed(tmp_path: Path) -> None:
    check_outputs(follow(tmp_path, Path(sys.executable).parent))


@pytest.mark.prove
def test_the_tour_runs_from_an_installed_wheel(tmp_path: Path) -> None:
    """In an environment of its own that shares this one's libraries, but not the checkout."""
    environment = tmp_path / "venv"
    binaries = environment / "bin"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], tmp_path)
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    wheel = build_wheel(tmp_path / "dist")
    run([sys.executable, "-m", "pip", "--python", str(binaries / "python"), *install, str(wheel)], tmp_path)
    packages = next((environment / "lib").glob("python*/site-packages"))
    # A folder named in a .pth file is searched last, and its own .pth files (the checkout's) are not read.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    program = "import sys, features, flows; print(*sys.path, features.__file__, flows.__file__, sep='\\n')"
    places = run([str(binaries / "python"), "-c", program], tmp_path).stdout.splitlines()
    assert [Path(place).parents[1] for place in places[-2:]] == [packages, packages]
    assert str(ROOT) not in places
    check_outputs(follow(tmp_path, binaries))
    check_own_project(tmp_path, binaries)


def check_own_project(folder: Path, binaries: Path) -> None:
    """What the README says of a project of one's own holds in a folder that has nothing to do with the checkout."""
    (typed,) = (block["body"] for block in _BLOCK.finditer(section("A project of your own")))
    environment = {"PATH": f"{binaries}{os.pathsep}{os.defpath}", "HOME": str(folder)}
    run(["bash", "-euc", f"{typed}featurefab ingest landing/"], folder, environment)
    describe = [str(binaries / "featurefab"), "describe", "checkout", "--json"]
    facts = json.loads(run(describe, folder / "shop", environment).stdout)
    assert facts["groups"] == "weekly_spending 1.0.0, last_order 1.0.0"
    assert (folder / "shop" / "home" / "lake" / "bronze" / "orders").is_dir()


@pytest.mark.prove
def test_a_wheel_holds_every_file_of_the_packages_and_nothing_else(tmp_path: Path) -> None:
    held = zipfile.ZipFile(build_wheel(tmp_path)).namelist()
    files = [f for f in held if ".dist-info/" not in f]
    packages = ("features", "expectations", "infra", "flows")
    there = [p.relative_to(ROOT) for package in packages for p in (ROOT / package).rglob("*") if p.is_file()]
    assert sorted(files) == sorted(str(p) for p in there if "__pycache__" not in p.parts)
    assert {f"{package}/py.typed" for package in packages} <= set(files)
    assert any(f.endswith(".html.j2") for f in files)
    assert any(f.endswith("licenses/LICENSE") for f in held)


def build_wheel(folder: Path) -> Path:
    """The project as a wheel, built from a copy: a build leaves nothing in the checkout."""
    copy = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)], folder)
    shutil.rmtree(copy)
    return next(folder.glob("*.whl"))


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_commands_is_complete() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group has commands
    table = [[f"`{name}`", (command.help or "").splitlines()[0]] for name, command in commands.items()]
    assert rows("Commands") == table


def test_the_table_of_settings_is_complete() -> None:
    table = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, {}) else f"`{field.default}`"
        meaning = " ".join((field.description or "").split()).replace("``", "`")
        table.append([f"`{PREFIX}{name.upper()}`", default, meaning])
    assert rows("Settings") == table


def test_every_make_target_that_is_named_exists() -> None:
    named = {name for page in PAGES for name in re.findall(r"\bmake ([a-z-]+)\b", code_of(page))}
    assert {"demo", "test"} <= named
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert named - targets == set()


def code_of(page: Path) -> str:
    """The inline code and indented blocks of a page."""
    text = page.read_text("utf-8")
    return "\n".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^ {4}(.*)$", text, re.MULTILINE)])


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_leads_to_a_file_and_heading_of_ours(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], target


def test_the_wafer_page_names_every_feature_that_is_shipped() -> None:
    text = (ROOT / "docs" / "wafer.md").read_text("utf-8")
    names = {f.name for group in REGISTRY.groups.values() for f in (*group.features, *group.derived)}
    names |= {*REGISTRY.groups, *REGISTRY.services, *REGISTRY.models, *REGISTRY.sources, *REGISTRY.entities}
    assert {name for name in names if f"`{name}`" not in text} == set()
