from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from features.errors import SettingsError
from infra.settings import (
    PREFIX,
    Settings,
    apply_isolation,
    environment_kept,
    is_foreign,
    isolated_environment,
    load_settings,
    origins,
)


@pytest.fixture(autouse=True)
def alone_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    return tmp_path


def test_argument_beats_variable_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "featurefab.toml").write_text("die_width_mm = 1\ndie_height_mm = 2\ningest_batch_mb = 3\n")
    monkeypatch.setenv("FEATUREFAB_DIE_HEIGHT_MM", "20")
    monkeypatch.setenv("FEATUREFAB_INGEST_BATCH_MB", "30")

    settings = load_settings(ingest_batch_mb=300)

    assert (settings.die_width_mm, settings.die_height_mm, settings.ingest_batch_mb) == (1, 20, 300)
    shown = origins(settings)
    assert shown["die_width_mm"] == ("1.0", "featurefab.toml")
    assert shown["die_height_mm"] == ("20.0", "FEATUREFAB_DIE_HEIGHT_MM")
    assert shown["ingest_batch_mb"] == ("300", "argument")
    assert shown["log_level"] == ("WARNING", "default")
    assert list(shown) == list(Settings.model_fields)


def test_every_setting_is_documented() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_home_is_absolute_so_that_a_change_of_folder_moves_nothing(tmp_path: Path) -> None:
    assert load_settings().home == tmp_path / ".featurefab"
    assert load_settings(home=Path("here")).home == tmp_path / "here"


def test_everything_written_lies_below_the_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = load_settings(home=home)
    values = [getattr(settings, name) for name, value in vars(Settings).items() if isinstance(value, property)]
    places = [value for value in values if isinstance(value, Path)]
    assert len(places) > 5
    assert [place for place in [*places, Path(settings.lake)] if not place.is_relative_to(home)] == []


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREFAB_LAKE_URL", "")
    assert load_settings().lake_url is None
    assert origins(load_settings())["lake_url"] == ("", "default")


def test_secrets_are_masked_wherever_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREFAB_LAKE_URL", "s3://hidden1:hidden2@bucket/lake?region=north&session_token=hidden3&x=1")
    monkeypatch.setenv("FEATUREFAB_STORAGE_OPTIONS", '{"AWS_SECRET_ACCESS_KEY": "hidden4"}')
    monkeypatch.setenv("FEATUREFAB_REDIS_URL", "redis://:hidden5@cache")
    settings = load_settings()

    assert "hidden" not in f"{origins(settings)} {settings!r} {settings}"
    assert origins(settings)["lake_url"][0] == "s3://*****@bucket/lake?region=north&session_token=*****&x=1"
    assert origins(settings)["storage_options"][0] == "AWS_SECRET_ACCESS_KEY=*****"
    assert settings.storage_options_plain == {"AWS_SECRET_ACCESS_KEY": "hidden4"}
    assert settings.lake.startswith("s3://hidden1:hidden2@")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FEATUREFAB_HOEM", "x", "FEATUREFAB_HOEM is no setting; the nearest one is 'home'"),
        ("FEATUREFAB_ONLINE", "redes", "setting 'online' from FEATUREFAB_ONLINE is 'redes': Input should be 'lmdb'"),
        ("FEATUREFAB_DIE_WIDTH_MM", "-1", "greater than 0"),
        ("FEATUREFAB_DIE_WIDTH_MM", "wide", "valid number"),
        ("FEATUREFAB_REGISTRY", "registry.py", "write it like 'package.module:NAME'"),
        ("FEATUREFAB_SUITES", "shop", "write it like 'package.module:NAME'"),
        ("FEATUREFAB_LAKE_URL", "bucket/lake", "write a URL"),
        ("FEATUREFAB_SCHEDULE_TIMEZONE", "Mars", "write one like 'America/New_York'"),
        ("FEATUREFAB_STORAGE_OPTIONS", "hidden", "is not JSON"),
        ("FEATUREFAB_STORAGE_OPTIONS", '["hidden"]', "valid dictionary"),
        ("FEATUREFAB_HOME", "a_file", "name a folder"),
        ("FEATUREFAB_CONFIG", "nowhere.toml", "settings file 'nowhere.toml' cannot be read"),
        ("FEATUREFAB_CONFIG", "a_file", "settings file 'a_file' cannot be read"),
    ],
)
def test_a_bad_variable_is_one_clear_line(
    variable: str, value: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_file").write_text("not = toml = here")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_an_unknown_key_of_the_file_and_an_unknown_argument_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="argument 'loglevel' is no setting; the nearest one is 'log_level'"):
        load_settings(loglevel="DEBUG")
    (tmp_path / "featurefab.toml").write_text('registri = "a.b:C"\n')
    with pytest.raises(SettingsError, match=r"featurefab\.toml: key 'registri' is no setting.*'registry'"):
        load_settings()


def test_another_settings_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text('[storage_options]\nregion = "north"\n')
    monkeypatch.setenv("FEATUREFAB_CONFIG", "other.toml")
    assert load_settings().storage_options_plain == {"region": "north"}


def test_isolation_removes_foreign_variables_and_points_every_library_into_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PREFECT_API_URL", "PREFECT_API_KEY", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "HTTP_PROXY"):
        monkeypatch.setenv(variable, "http://elsewhere.invalid")
    monkeypatch.setenv("NO_PROXY", "intranet")
    settings = load_settings(home=tmp_path / "home")
    with environment_kept():
        apply_isolation(settings, {"PREFECT_PROFILES_PATH": "extra"})
        assert {n: v for n, v in os.environ.items() if is_foreign(n)} == {
            **{n: v for n, v in isolated_environment(settings).items() if is_foreign(n)},
            "PREFECT_PROFILES_PATH": "extra",
        }
        assert "PREFECT_API_URL" not in os.environ
        assert os.environ["NO_PROXY"] == "intranet,127.0.0.1"
        apply_isolation(settings)
        assert os.environ["NO_PROXY"] == "intranet,127.0.0.1"
        assert "PREFECT_PROFILES_PATH" not in os.environ
        assert load_settings().home == tmp_path / "home"  # flows load the settings anew
    assert os.environ["PREFECT_API_URL"] == "http://elsewhere.invalid"
    assert "FEATUREFAB_HOME" not in os.environ


def test_reading_settings_imports_no_heavy_library() -> None:
    program = "import sys, infra.settings; print({'prefect', 'mlflow', 'great_expectations'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
