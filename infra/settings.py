"""Settings: from ``FEATUREFAB_*`` variables, then ``featurefab.toml``, then defaults; and isolation.

The only module that reads or changes the process's environment. Everything the platform writes lies
below ``Settings.home``; ``apply_isolation`` makes the libraries underneath keep to that as well.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pydantic_settings
from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from features.errors import SettingsError
from infra.shadows import refuse_shadows

PREFIX = "FEATUREFAB_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names another settings file than ``featurefab.toml`` in the working folder."""

LOOPBACK = "127.0.0.1"
"""The only address on which this platform's own private servers listen."""

_MASK = "*****"
_USER_INFO = re.compile(r"(?<=://)[^/@]+(?=@)")
_SECRET_PARAMETER = re.compile(r"(?i)(?<=[?&])([^=&]*(?:key|password|secret|signature|token)[^=&]*)=[^&]*")


def _as_folder(path: Path) -> Path:
    path = path.expanduser().absolute()
    if set("[]%") & set(str(path)):
        raise ValueError("a path with [, ] or % cannot hold Delta tables; name another folder")
    if path.exists() and not path.is_dir():
        raise ValueError("there is a file of that name; name a folder")
    return path


def _as_place(text: str) -> str:
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ValueError("write it like 'package.module:NAME'")
    return text


def _as_url(text: str) -> str:
    if not re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise ValueError("write a URL, like 's3://bucket/folder'")
    return text


def _as_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("it is no IANA time zone; write one like 'America/New_York'") from error
    return name


Folder = Annotated[Path, AfterValidator(_as_folder)]
File = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Url = Annotated[str, AfterValidator(_as_url)]


class Settings(BaseSettings):
    """Every setting; make one with ``load_settings``, which checks names and words its errors."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    home: Folder = Field(default=Path(".featurefab"), validate_default=True)
    """The folder below which everything is written; a relative one starts at the working folder."""

    registry: Annotated[str, AfterValidator(_as_place)] = "features.definitions:REGISTRY"
    """Where the definitions are: "package.module:NAME" of a Registry."""

    suites: Annotated[str, AfterValidator(_as_place)] | None = None
    """Where your suites are: "package.module:NAME" of a mapping of source or group names to suites; unset: none."""

    lake_url: Url | None = Field(default=None, repr=False)
    """Where the Delta tables lie, such as "s3://bucket/lake"; unset: the folder ``lake`` in the home."""

    storage_options: dict[str, SecretStr] = {}
    """Credentials and options for ``lake_url``, as Delta takes them; in a variable: a JSON object."""

    online: Literal["lmdb", "redis"] = "lmdb"
    """Which online store serves features: "lmdb", a memory-mapped file in the home, or "redis", a server."""

    online_target: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = None
    """The name under which the publish log keeps what went online; unset: "lmdb" or "redis", as ``online`` says."""

    redis_url: SecretStr | None = None
    """The Redis or Valkey of online="redis", such as "redis://user:password@host:6379/0"."""

    redis_namespace: Annotated[str, Field(min_length=1)] = "featurefab"
    """What the keys in Redis begin with: homes that share a server need one each."""

    online_cache_mb: NonNegativeInt = 0
    """How many megabytes of rows each worker of `serve` remembers of a Redis; 0: none."""

    online_cache_seconds: PositiveInt = 300
    """How many seconds such a row is remembered at most; one that changes is forgotten at once."""

    mlflow_tracking_uri: Url | None = Field(default=None, repr=False)
    """An MLflow server or database; unset: SQLite in the home."""

    prefect_api_url: Url | None = Field(default=None, repr=False)
    """The API of a running Prefect server; unset: commands start a private one in the home."""

    die_width_mm: PositiveFloat = 5.0
    """Die width in millimetres, for wafers whose file does not state it."""

    die_height_mm: PositiveFloat = 5.0
    """Die height in millimetres, for wafers whose file does not state it."""

    ingest_batch_mb: PositiveInt = 256
    """How many megabytes of files, as delivered, one ingest task takes."""

    fold_seconds: PositiveInt = 10
    """How many seconds pushed rows wait in the push log before a later push takes them into the table."""

    memory_mb: PositiveInt = 4000
    """About how many megabytes a materialization or a retrieval may use: it cuts its work into pieces that fit."""

    parallel: PositiveInt = 1
    """How many chunks of a backfill are computed at once, each with its share of the memory."""

    task_runner: Literal["threads", "dask", "ray"] = "threads"
    """What computes the chunks of backfills: threads, or processes of a local Dask or Ray (extras of the package)."""

    serve_host: Annotated[str, Field(min_length=1)] = LOOPBACK
    """Where ``featurefab serve`` listens; where others than this machine can ask, keys are needed."""

    serve_keys: Literal["auto", "on", "off"] = "auto"
    """Whether who asks the feature server needs a key; "auto": where others than this machine can ask."""

    serve_tls_certificate: File | None = None
    """The certificate, with its chain, by which ``featurefab serve`` speaks TLS (PEM); unset: it does not."""

    serve_tls_key: File | None = None
    """The private key of that certificate (PEM, without a password)."""

    serve_audit_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The share of reads that the audit log has, where keys are needed; pushes and refusals are all in it."""

    retention_days: PositiveInt = 30
    """How many days the ``maintain`` flow leaves table files that no version in use needs."""

    schedule_timezone: Annotated[str, AfterValidator(_as_time_zone)] = "America/New_York"
    """The time zone in which schedules are written; stored times are UTC always."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    """The least severe message that is logged."""

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, **given: Any) -> None:
        origins = _find_origins(given)
        super().__init__(**given)
        self._origins = origins

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - part of the signature that is overridden
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments beat the environment, which beats the settings file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _config_file())

    def origin(self, name: str) -> str:
        """Where a setting came from: "argument", a variable's name, the settings file or "default"."""
        return self._origins.get(name, "default")

    @property
    def lake(self) -> str:
        """The URL or path under which all Delta tables lie."""
        return self.lake_url or str(self.home / "lake")

    @property
    def storage_options_plain(self) -> dict[str, str]:
        """The storage options unmasked, for the Delta library alone."""
        return {name: secret.get_secret_value() for name, secret in self.storage_options.items()}

    @property
    def online_path(self) -> Path:
        """The folder of the embedded online store."""
        return self.home / "online"

    @property
    def serving(self) -> Path:
        """The folder in which the workers that serve keep their figures."""
        return self.home / "serving"

    @property
    def push_log_path(self) -> Path:
        """The folder of pushed rows that are not in the feature tables yet."""
        return self.home / "push_log"

    @property
    def mlflow_db(self) -> Path:
        """The embedded tracking database."""
        return self.home / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        """The tracking address: the one set, else the embedded database."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.mlflow_db}"

    @property
    def mlflow_artifacts(self) -> Path:
        """The folder of models and other artifacts."""
        return self.home / "mlflow_artifacts"

    @property
    def prefect_home(self) -> Path:
        """Prefect's folder, its database included."""
        return self.home / "prefect"

    @property
    def reports(self) -> Path:
        """The folder of nightly reports."""
        return self.home / "reports"

    @property
    def turns(self) -> Path:
        """The folder of the locks by which one run at a time works on a group."""
        return self.home / "turns"

    @property
    def logs(self) -> Path:
        """The folder of what the servers of ``featurefab up`` print."""
        return self.home / "logs"

    @property
    def access(self) -> Path:
        """The folder of the feature server's keys and audit log."""
        return self.home / "access"

    @property
    def landing(self) -> Path:
        """The folder where simulated files arrive."""
        return self.home / "landing"


def load_settings(home: Path | None = None, **overrides: Any) -> Settings:
    """The settings in force; arguments other than None beat every other origin.

    Raises SettingsError, in one line, for a value that does not fit, for a ``FEATUREFAB_*`` variable
    or key of the settings file that names no setting, for a settings file that cannot be read, and
    for a working folder that holds Python files under the name of one of our packages.
    """
    refuse_shadows()  # here, since every command and every flow begins with its settings
    given = {name: value for name, value in {"home": home, **overrides}.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(_explain(error, _find_origins(given))) from error
    except pydantic_settings.SettingsError as error:
        # Raised for a variable that should hold JSON; its value may be a secret and is not repeated.
        raise SettingsError(f'{PREFIX}STORAGE_OPTIONS is not JSON: write it like \'{{"region": "..."}}\'') from error


def origins(settings: Settings) -> dict[str, tuple[str, str]]:
    """Each setting's value as it may be shown, secrets masked, and where it came from."""
    return {name: (_shown(getattr(settings, name)), settings.origin(name)) for name in Settings.model_fields}


def isolated_environment(settings: Settings) -> dict[str, str]:
    """The variables that keep the libraries underneath below the home, and off the network.

    They are complete only where every other variable for which ``is_foreign`` holds is unset.
    """
    cache = settings.home / "cache"
    names = {
        f"{PREFIX}HOME": str(settings.home),  # flows load the settings anew: they must find this home
        f"{PREFIX}REGISTRY": settings.registry,
        **({} if settings.suites is None else {f"{PREFIX}SUITES": settings.suites}),
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{settings.prefect_home / 'prefect.db'}",
        "PREFECT_HOME": str(settings.prefect_home),
        "PREFECT_LOGGING_LEVEL": settings.log_level,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "XDG_CACHE_HOME": str(cache),
        "XDG_CONFIG_HOME": str(cache / "config"),
        "XDG_DATA_HOME": str(cache / "data"),
        "XDG_STATE_HOME": str(cache / "state"),
    }
    if settings.prefect_api_url is not None:
        names["PREFECT_API_URL"] = names[f"{PREFIX}PREFECT_API_URL"] = settings.prefect_api_url
    return names


def is_foreign(variable: str) -> bool:
    """Whether a variable would steer Prefect or MLflow, and so must not leak in from the caller."""
    return variable.startswith(("PREFECT_", "MLFLOW_", "_MLFLOW_"))


def apply_isolation(settings: Settings, extra: Mapping[str, str] | None = None) -> None:
    """Set this process's environment to the isolated one, with ``extra`` variables on top.

    Proxies of the caller stay, but not for this machine's own servers. Call it before Prefect or
    MLflow is imported: both read the environment once, on import.
    """
    for variable in [name for name in os.environ if is_foreign(name)]:
        del os.environ[variable]
    os.environ.update(isolated_environment(settings))
    os.environ.update(extra or {})
    unproxied = [name for name in os.environ.get("NO_PROXY", "").split(",") if name not in ("", LOOPBACK)]
    os.environ["NO_PROXY"] = ",".join([*unproxied, LOOPBACK])


@contextmanager
def environment_kept() -> Iterator[None]:
    """Put the process's environment back as it was when the block ends."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _config_file() -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE) or "featurefab.toml")


def _find_origins(given: Iterable[str]) -> dict[str, str]:
    """Where each setting that is not a default comes from; refuses names that are no setting."""
    path = _config_file()
    try:
        in_file = tomllib.loads(path.read_text("utf-8")) if path.exists() or CONFIG_VARIABLE in os.environ else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {str(path)!r} cannot be read: {error}; correct or remove it") from error
    variables = {name: value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    variables.pop(CONFIG_VARIABLE, None)

    found = {_known(key, f"{path}: key {key!r}"): str(path) for key in in_file}
    for name, value in variables.items():
        setting = _known(name[len(PREFIX) :].lower(), name)
        if value:
            found[setting] = name
    return found | {_known(name, f"argument {name!r}"): "argument" for name in given}


def _known(name: str, where: str) -> str:
    if name not in Settings.model_fields:
        nearest = get_close_matches(name, Settings.model_fields, n=1, cutoff=0)[0]
        raise SettingsError(f"{where} is no setting; the nearest one is {nearest!r}: rename or remove it")
    return name


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """The first problem of several, in one line, without repeating a secret."""
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0])
    value = _MASK if name in ("storage_options", "redis_url") else _shown(problem["input"])
    reason = problem["msg"].removeprefix("Value error, ")
    return f"setting {name!r} from {origins.get(name, 'default')} is {value!r}: {reason}"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_MASK}" for name in value)
    if value is None:
        return ""
    return _SECRET_PARAMETER.sub(rf"\1={_MASK}", _USER_INFO.sub(_MASK, str(value)))
