"""Cron schedules, checked where they are written down: five fields, like "30 2 * * 1-5"."""

from __future__ import annotations

from features.errors import InvalidInput

_MONTHS = {"jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6}
_MONTHS |= {"jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def check_cron(text: str) -> None:
    """Refuse what is no five-field cron schedule, or one that no day ever meets (30 February).

    Fields take ``*``, numbers, names (mon, jan), ranges, steps and lists of these. Raises InvalidInput.

    >>> check_cron("0 6 * * mon-fri")
    >>> check_cron("0 26 * * *")
    Traceback (most recent call last):
    features.errors.InvalidInput: '0 26 * * *' is no cron schedule: hour '26' is not within 0 to 23; \
write minute, hour, day of month, month and day of week, like '30 2 * * 1-5'
    """
    try:
        _check_fields(text.split())
    except ValueError as error:
        remedy = "write minute, hour, day of month, month and day of week, like '30 2 * * 1-5'"
        raise InvalidInput(f"{text!r} is no cron schedule: {error}; {remedy}") from error


def _check_fields(fields: list[str]) -> None:
    """Raises ValueError with what is wrong."""
    if len(fields) != len(_FIELDS):
        raise ValueError(f"it has {len(fields)} field(s), not 5")
    _, _, days, months, weekdays = (_values(f, *rule) for f, rule in zip(fields, _FIELDS, strict=True))
    # Only where every weekday will do does the day of the month decide alone.
    any_weekday = fields[4].startswith("*") and weekdays >= set(range(7))
    if any_weekday and min(days) > max(_LONGEST[month - 1] for month in months):
        raise ValueError("no such day exists")


def _values(field: str, what: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    """The values that a field names; ValueError says what is wrong with it."""
    values: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isdecimal() and int(step) > 0):
            raise ValueError(f"{what} step {step!r} is not a number from 1")
        first, dash, last = span.partition("-")
        start, end = (low, high) if span == "*" else (_value(p, what, low, high, names) for p in (first, last or first))
        if dash and (not last or end < start):
            raise ValueError(f"{what} range {span!r} does not run upwards")
        values |= set(range(start, (high if slash and not dash else end) + 1, int(step) if slash else 1))
    return values


def _value(text: str, what: str, low: int, high: int, names: dict[str, int]) -> int:
    value = names.get(text.lower(), int(text) if text.isdecimal() else -1)
    if not low <= value <= high:
        raise ValueError(f"{what} {text!r} is not within {low} to {high}")
    return value
