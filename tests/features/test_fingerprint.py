"""Fingerprints: equal for equal definitions however often they are written, different for different ones."""

from __future__ import annotations

import threading
from functools import partial

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, Source
from features.description import fingerprint
from features.errors import DefinitionError
from features.fingerprint import source_text

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source("payments", {"card_id": pl.Int64, "x": pl.Float64, "at": pl.Datetime}, "at")


def mark(expr=None, prepare=None):
    features = [Feature("v", pl.col("x") if expr is None else expr)]
    about = {"owner": "o", "description": "d"}
    return fingerprint(FeatureGroup("g", "1.0.0", card, payments, features, grain="event", prepare=prepare, **about))


def scaled(frame, by=1):
    return frame.with_columns(pl.col("x") * by)


def scale(by):
    def prepare(frame):
        return frame.with_columns(pl.col("x") * by)

    return prepare


def one_more(values):
    return values + 1


def two_more(values):
    return values + 2


x, at = pl.col("x"), pl.col("at")
EXPRESSIONS = {
    "decimals": x.round,
    "interpolation": lambda n: x.quantile(0.5, "linear" if n == 1 else "lower"),
    "degrees of freedom": lambda n: x.std(ddof=n),
    "zone": lambda n: at.dt.convert_time_zone("UTC" if n == 1 else "Asia/Tokyo").dt.hour(),
    "format": lambda n: at.dt.strftime("%H" if n == 1 else "%M"),
    "list": lambda n: x.is_in([1.0, float(n)]),
    "series": lambda n: x + pl.lit(pl.Series([n])),
    "source of a function": lambda n: x.map_batches(one_more if n == 1 else two_more, pl.Float64),
    "value in a function": lambda n: x.map_batches(lambda s: s + n, pl.Float64),
}


@pytest.mark.parametrize("make", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_what_an_expression_does_not_print_counts_too(make):
    assert mark(make(1)) == mark(make(1))
    assert mark(make(1)) != mark(make(2))


@pytest.mark.parametrize("make", [lambda n: partial(scaled, by=n), scale], ids=["bound", "enclosed"])
def test_the_values_that_a_prepare_brings_along_count_too(make):
    assert mark(prepare=make(1)) == mark(prepare=make(1))
    assert mark(prepare=make(1)) != mark(prepare=make(2))


def test_a_function_that_holds_what_no_text_can_say_is_refused():
    lock = threading.Lock()
    with pytest.raises(DefinitionError, match="let it hold plain values only"):
        mark(x.map_batches(lambda s: s if lock else -s, pl.Float64))


def test_two_lambdas_of_one_line_are_told_apart():
    one, two = lambda frame: frame.with_columns(x=1), lambda frame: frame.with_columns(x=2)
    assert mark(prepare=one) != mark(prepare=two)
    assert mark(prepare=one) == mark(prepare=lambda frame: frame.with_columns(x=1))
    adding = [x.map_batches(lambda s: s + 1, pl.Float64), x.map_batches(lambda s: s + 2, pl.Float64)]
    assert mark(adding[0]) != mark(adding[1])


def test_a_lambda_among_others_is_found_whole():
    outer = lambda n: lambda frame: frame.with_columns(x=n) if n else frame  # noqa: E731
    assert "lambda frame: frame.with_columns(x=n) if n else frame" in source_text(outer(1))
    assert source_text(outer).startswith("lambda n:")
    assert mark(prepare=outer(1)) != mark(prepare=outer(2))


def test_functions_without_source_are_told_apart_by_their_code():
    first, second, again = (eval(f"lambda frame: frame.with_columns(x={n})") for n in (1, 2, 1))
    assert mark(prepare=first) != mark(prepare=second)
    assert mark(prepare=first) == mark(prepare=again)


def test_default_values_count_too():
    def make(n):
        return x.map_batches(lambda s, n=n: s + n, pl.Float64)

    assert mark(make(1)) == mark(make(1))
    assert mark(make(1)) != mark(make(2))


def test_what_only_documents_or_operates_a_group_is_no_meaning():
    plain = FeatureGroup("g", "1.0.0", card, payments, [Feature("v", x)], grain="event", owner="o", description="d")
    about = {"owner": "p", "description": "e", "ttl": "9d", "sla": "1h", "tags": ["t"], "schedule": "0 2 * * *"}
    documented = [Feature("v", x, description="a value", tags=["t"], range=(0, 1), default=0.0)]
    other = FeatureGroup("g", "1.0.0", card, payments, documented, grain="event", **about)
    assert fingerprint(plain) == fingerprint(other)


def test_the_stored_type_is_part_of_the_meaning():
    narrow = Source("payments", {"card_id": pl.Int64, "x": pl.Float32, "at": pl.Datetime}, "at")
    about = {"grain": "event", "owner": "o", "description": "d"}
    marks = {fingerprint(FeatureGroup("g", "1.0.0", card, s, [Feature("v", x)], **about)) for s in (payments, narrow)}
    assert len(marks) == 2
