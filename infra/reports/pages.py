"""What every report page is made with: the templates' environment, how figures are written, and plain JSON values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from infra.reports import charts


def environment() -> Environment:
    """The templates beside this module: all text is escaped, and a name without a value is an error."""
    folder = FileSystemLoader(Path(__file__).parent)
    env = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters |= {"number": charts.number, "percent": percent, "chance": chance, "span": span, "moment": moment}
    env.filters["breakable"] = breakable
    return env


def percent(value: float | None) -> str:
    """A share as a percentage, so that little is never shown as none.

    >>> percent(0.0), percent(0.0004), percent(0.25), percent(None)
    ('0', '< 0.1 %', '25.0 %', '-')
    """
    if value is None:
        return "-"
    return "0" if value == 0 else "< 0.1 %" if value < 0.001 else f"{value:.1%}".replace("%", " %")


def chance(value: float | None) -> str:
    """A p- or q-value.

    >>> chance(0.0321), chance(1e-30)
    ('0.032', '< 0.0001')
    """
    if value is None:
        return "-"
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}" if value < 0.995 else "1"


def span(value: timedelta | None) -> str:
    """A span of time in its two largest units.

    >>> span(timedelta(days=1, hours=2, minutes=5)), span(timedelta(seconds=90)), span(None)
    ('1 d 2 h', '1 min', '-')
    """
    if value is None:
        return "-"
    minutes = int(value.total_seconds()) // 60
    parts = [(minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min")]
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "0 min"


def moment(value: datetime | None) -> str:
    """A moment to the minute, UTC."""
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M} UTC"


def breakable(name: str) -> Markup:
    """A long name that may wrap after its colon, slash or underscores."""
    return Markup(re.sub(r"([:/_])", r"\1<wbr>", str(escape(name))))  # noqa: S704  escaped first


def plain(value: Any) -> Any:
    """Dataclasses, mappings and lists as JSON values: times in ISO 8601, spans in seconds, infinite figures null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
