"""Audit: which data made a model, from its version over run, features and tables to the source files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

import polars as pl
from rich.markup import escape
from rich.tree import Tree

from features.errors import TrackingError
from features.feature_service import Ref
from features.stores import Tracker
from infra.ledger import Ledger


class SourceFiles(Protocol):
    """Which files stand behind a version of a source's table."""

    def files_of(self, source: str, version: int) -> pl.DataFrame:
        """The files whose rows a table's version holds: path, sha256, rows, ingested_at (UTC)."""


class LedgerFiles:
    """``SourceFiles`` from the ingest ledger; rows that were written without a file have none."""

    def __init__(self, ledger: Ledger) -> None:
        self._entries = ledger.entries()

    def files_of(self, source: str, version: int) -> pl.DataFrame:
        """The files that landed in the source's table up to ``version``, in the order of their landing."""
        place = f"$.{source}"
        landed = pl.col("versions").str.json_path_match(place).cast(pl.Int64)
        rows = pl.col("delivered").str.json_path_match(place).cast(pl.Int64)
        columns = [pl.col("path"), pl.col("file_sha256").alias("sha256"), rows.alias("rows"), pl.col("ingested_at")]
        return self._entries.filter(landed <= version).select(columns)


@dataclass(frozen=True)
class AuditedFile:
    """A source file: its content's hash, the rows it delivered to the source, and when it was taken in."""

    path: str
    sha256: str
    rows: int
    ingested_at: datetime


@dataclass(frozen=True)
class AuditedSource:
    """An input's table at the version that was read (None: it had none), and the files it then held.

    Rows that were written without a file, or by a group that the model does not read, have no files.
    """

    name: str
    version: int | None
    files: tuple[AuditedFile, ...]


@dataclass(frozen=True)
class AuditedGroup:
    """A feature group as the model's training set read it, with what it was computed from.

    ``table_version`` is the Delta version of its table; ``features`` are those that the model takes,
    none for a group that only feeds another one.
    """

    name: str
    version: str
    fingerprint: str
    table_version: int
    features: tuple[str, ...]
    groups: tuple[AuditedGroup, ...]
    sources: tuple[AuditedSource, ...]


@dataclass(frozen=True)
class Audit:
    """A model version, the run that made it and the data behind that run.

    ``label`` is the label's reference where the manifest names one, ``label_group`` the group it came from.
    ``entity_hash`` and ``content_hash`` identify the entity rows asked and the training set answered.
    """

    model: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    metrics: Mapping[str, float]
    label: str | None
    history: str
    publish_log_version: int | None
    rows: int
    entity_hash: str
    content_hash: str
    groups: tuple[AuditedGroup, ...]
    label_group: AuditedGroup | None = None

    def to_dict(self) -> dict[str, Any]:
        """The whole tree as plain values that fit into JSON; moments in ISO 8601."""
        return asdict(self, dict_factory=_plain)

    def render(self, max_files: int = 5) -> Tree:
        """The tree for a terminal; of each source at most ``max_files`` files, the newest."""
        name = f"{self.model} version {self.version}"
        tree = Tree(f"[bold]{name}[/bold]" + (f" ({', '.join(self.aliases)})" if self.aliases else ""))
        run = tree.add(f"run {self.run_id}")
        for metric, value in sorted(self.metrics.items()):
            run.add(f"{metric} = {value:.4g}")
        data = tree.add(
            f"training set: {self.rows:,} rows, history {self.history}, publish log version {self.publish_log_version}"
        )
        data.add(f"content {self.content_hash}")
        data.add(f"entities {self.entity_hash}")
        if self.label is not None:
            data.add(f"label {self.label}")
        for group in [*self.groups, *([self.label_group] if self.label_group else [])]:
            _add_group(tree, group, max_files)
        return tree


def audit(tracker: Tracker, files: SourceFiles, model_name: str, version: str | None = None) -> Audit:
    """Walk from a model version (None: the champion) to the source files behind it.

    Raises TrackingError where there is no such version, or its manifest is not one of a training set.
    """
    found = tracker.model_version(model_name, version)
    manifest = found.manifest
    try:
        features = [str(ref) for ref in manifest["features"]]
        wanted = dict.fromkeys(Ref.parse(ref).head for ref in features)
        return Audit(
            model=found.name,
            version=found.version,
            aliases=tuple(found.aliases),
            run_id=found.run_id,
            metrics=dict(found.metrics),
            label=(manifest.get("label") or {}).get("ref"),
            history=manifest["history"],
            publish_log_version=manifest["publish_log_version"],
            rows=manifest["rows"],
            entity_hash=manifest["entity_hash"],
            content_hash=manifest["content_hash"],
            groups=tuple(_group(name, manifest["groups"], features, files) for name in wanted),
            label_group=_label_group(manifest.get("label") or {}, files),
        )
    except KeyError as error:
        who = f"model {found.name!r} version {found.version}"
        raise TrackingError(f"{who}: its manifest lacks {error}, so it cannot be traced: train it again") from error


def _label_group(label: Mapping[str, Any], files: SourceFiles) -> AuditedGroup | None:
    """The group that the label came from, where the manifest says what it was computed from."""
    if "sources" not in label:
        return None
    name = Ref.parse(label["ref"]).head
    return _group(name, {name: label}, [label["ref"]], files)


def _group(name: str, groups: Mapping[str, Mapping[str, Any]], features: list[str], files: SourceFiles) -> AuditedGroup:
    facts = groups[name]
    inputs: Mapping[str, int | None] = facts["sources"]
    return AuditedGroup(
        name=name,
        version=facts["version"],
        fingerprint=facts["fingerprint"],
        table_version=facts["table_version"],
        features=tuple(ref for ref in features if Ref.parse(ref).head == name),
        groups=tuple(_group(upstream, groups, features, files) for upstream in inputs if upstream in groups),
        sources=tuple(_source(source, v, files) for source, v in inputs.items() if source not in groups),
    )


def _source(name: str, version: int | None, files: SourceFiles) -> AuditedSource:
    if version is None:
        return AuditedSource(name, None, ())
    found = files.files_of(name, version).select("path", "sha256", "rows", "ingested_at")
    return AuditedSource(name, version, tuple(AuditedFile(*row) for row in found.iter_rows()))


def _add_group(tree: Tree, group: AuditedGroup, max_files: int) -> None:
    node = tree.add(
        f"[bold]{group.name}[/bold] {group.version}, table version {group.table_version}, "
        f"definition {group.fingerprint[:12]}"
    )
    if group.features:
        node.add("features: " + ", ".join(ref.partition(":")[2] for ref in group.features))
    for upstream in group.groups:
        _add_group(node, upstream, max_files)
    for source in group.sources:
        _add_source(node, source, max_files)


def _add_source(tree: Tree, source: AuditedSource, max_files: int) -> None:
    rows = sum(file.rows for file in source.files)
    held = f"{len(source.files):,} files, {rows:,} rows" if source.files else "no files"
    node = tree.add(f"source {source.name}, table version {source.version}: {held}")
    shown = source.files[-max_files:] if max_files else ()
    if len(source.files) > len(shown):
        node.add(f"... {len(source.files) - len(shown):,} earlier files")
    for file in shown:
        node.add(f"{escape(file.path)} ({file.rows:,} rows, {file.ingested_at:%Y-%m-%d %H:%M}, {file.sha256[:12]})")


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in items}
