"""Wiring: from settings to a feature store with its stores, tracker and registry.

Imports no Prefect, MLflow or Great Expectations: what needs them is made where it is used.
"""

from __future__ import annotations

import getpass
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self

from expectations.rows import check_rows
from expectations.rules import Suite
from features.capacity import Capacity
from features.errors import SettingsError
from features.feature_group import FeatureGroup
from features.registry import Registry
from features.store import FeatureStore
from features.stores import OnlineStore
from features.times import Clock, as_utc, utc_now
from infra.code_version import code_version
from infra.settings import Settings, load_settings
from infra.shadows import refuse_shadows
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.push_log import LmdbPushLog
from infra.storage.redis_store import RedisOnlineStore
from infra.storage.row_cache import RowCache
from infra.tracking import MlflowTracker


@dataclass(frozen=True)
class Platform:
    """Everything one home holds, wired together; a context manager that releases it."""

    settings: Settings
    store: FeatureStore
    lake: DeltaLake
    tracker: MlflowTracker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()


def connect(
    registry: Registry | str | None = None,
    home: Path | str | None = None,
    clock: Callable[[], datetime] | None = None,
) -> FeatureStore:
    """A feature store on the home folder; starts no thread and no server.

    ``registry`` is a Registry or "package.module:NAME" (None: the setting, else the shipped
    definitions), ``home`` the folder that holds everything (None: the setting), ``clock`` returns an
    aware datetime (None: UTC now). Raises SettingsError where the registry cannot be found.
    """
    return open_platform(registry, home, clock).store


def open_platform(
    registry: Registry | str | None = None,
    home: Path | str | None = None,
    clock: Clock | None = None,
    parallel: int | None = None,
    row_cache: RowCache | None = None,
) -> Platform:
    """What ``connect`` makes, with the parts that flows and commands need beside the store.

    ``parallel`` goes before the setting of that name. ``row_cache`` remembers rows of an online store on the network.
    """
    settings = load_settings(home=None if home is None else Path(home), parallel=parallel)
    definitions = registry if isinstance(registry, Registry) else load_registry(registry or settings.registry)
    lake = DeltaLake(settings.lake, settings.storage_options_plain)
    online = open_online(settings, definitions, clock or utc_now, row_cache)
    tracker = MlflowTracker(settings.mlflow_uri, settings.mlflow_artifacts)
    own = cache(partial(group_suites, settings.suites, definitions))  # read when something is pushed
    store = FeatureStore(
        definitions,
        lake,
        online,
        clock or utc_now,
        Capacity(settings.memory_mb * 1_000_000, parallel=settings.parallel),
        code_version=partial(code_version, Path.cwd()),
        tracker=tracker,
        push_log=LmdbPushLog(settings.push_log_path),
        row_check=lambda group, rows: check_rows(group, rows, own().get(group)),
        fold_after=timedelta(seconds=settings.fold_seconds),
        models=tracker,
        user=_user(),
    )
    return Platform(settings, store, lake, tracker)


def open_online(settings: Settings, registry: Registry, clock: Clock, row_cache: RowCache | None = None) -> OnlineStore:
    """The online store that the settings name; raises SettingsError for a Redis without a URL."""
    target = settings.online_target or settings.online
    if settings.online == "lmdb":
        return LmdbOnlineStore(settings.online_path, target)
    if settings.redis_url is None:
        raise SettingsError("online is 'redis', but redis_url is not set: set FEATUREFAB_REDIS_URL")
    ttls = {group.table_id: group.ttl_span for group in registry.groups.values()}
    url, namespace = settings.redis_url.get_secret_value(), settings.redis_namespace
    return RedisOnlineStore(url, namespace=namespace, ttl_of=ttls.get, target=target, clock=clock, cache=row_cache)


def _user() -> str:
    """Who this process runs as; containers may run as somebody without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def fixed_clock(now: datetime | None) -> Clock:
    """A clock that stands at ``now``; None reads the wall clock once and stands there."""
    moment = utc_now() if now is None else as_utc(now)
    return lambda: moment


def load_registry(place: str) -> Registry:
    """The registry at "package.module:NAME"; modules of the working folder are found too."""
    found = _load_named("registry", place)
    if not isinstance(found, Registry):
        name = place.partition(":")[2]
        raise SettingsError(f"registry {place!r}: {name!r} is not a Registry in that module; name the one that is")
    return found


def load_suites(place: str | None, registry: Registry) -> Mapping[str, Suite]:
    """The suites at "package.module:NAME", by the name of the source or feature group that they judge; None: none.

    Raises SettingsError where there is no such mapping, or a name in it does not say what is judged.
    """
    if place is None:
        return {}
    found = _load_named("suites", place)
    if not isinstance(found, Mapping) or not all(isinstance(suite, Suite) for suite in found.values()):
        name = place.partition(":")[2]
        raise SettingsError(
            f"suites {place!r}: {name!r} is no mapping of names to suites in that module: write it like "
            f"{{'orders': suite_for(orders, rows=[...])}}"
        )
    if unknown := sorted(found.keys() - registry.sources.keys() - registry.groups.keys()):
        raise SettingsError(
            f"suites {place!r}: {unknown} are neither sources nor feature groups of the registry, which has "
            f"{sorted(registry.sources)} and {sorted(registry.groups)}: rename or remove them"
        )
    if unclear := sorted(found.keys() & registry.sources.keys() & registry.groups.keys()):
        raise SettingsError(
            f"suites {place!r}: {unclear} are names of both a source and a feature group: rename one of the two"
        )
    return found


def group_suites(place: str | None, registry: Registry) -> dict[FeatureGroup, Suite]:
    """Those suites at "package.module:NAME" that are for feature groups of the registry."""
    groups = registry.groups
    return {groups[name]: suite for name, suite in load_suites(place, registry).items() if name in groups}


def _load_named(setting: str, place: str) -> object:
    """What a setting names as "package.module:NAME", None if the module has no such name.

    Raises SettingsError where it is written otherwise or there is no such module.
    """
    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute:
        raise SettingsError(f"{setting} {place!r} is not written like 'package.module:{setting.upper()}'")
    refuse_shadows(module_name)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that no folder of the project can shadow a package
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise SettingsError(f"{setting} {place!r}: there is no module {error.name!r} in {here} or installed") from error
    return getattr(module, attribute, None)
