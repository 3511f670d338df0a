"""Fingerprints: equal for equal definitions however often they are written, different for different ones."""

from __future__ import annotations

import importlib
import sys
import threading
from functools import partial

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, Source
from features.definition_diff import compare
from features.description import describe_group, fingerprint
from features.elementwise import not_elementwise
from features.errors import DefinitionError
from features.fingerprint import source_text

card = Entity("card", keys={"card_id": pl.Int64})
x, at = pl.col("x"), pl.col("at")
payments = Source("payments", {"card_id": pl.Int64, "x": pl.Float64, "at": pl.Datetime}, "at")


def mark(expr=x, prepare=None):
    return fingerprint(group(expr, prepare))


def group(expr=x, prepare=None):
    grain = {"grain": "event"} if not_elementwise(expr) is None else {"grain": "entity", "settle": "1h"}
    about = {"owner": "o", "description": "d"}
    return FeatureGroup("g", "1.0.0", card, payments, [Feature("v", expr)], prepare=prepare, **grain, **about)


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


MODULE = """
import polars as pl
from . import shapes
from functools import cache, partial
from math import pi

FACTOR = 2.0
UNUSED = 1
CHOICES = {"a": (1, 2), "b": [3]}
KNOWN = {"x", "y", "z"}
PRICE = pl.col("x") * 3

def unused(v):
    return v

def twice(v):
    return v * FACTOR

def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

@cache
def offset(n):
    return n + 1

class Kind:
    GOOD = 1

TABLE = {"twice": twice, "sum": sum}
bound = partial(twice)

def inner(frame):
    return frame.with_columns(pl.col("x").map_batches(lambda s: twice(s) * shapes.WIDTH, pl.Float64))

def prepare(frame):
    assert even(2) and pi and TABLE and bound
    return inner(frame).with_columns(y=PRICE, k=pl.lit(Kind.GOOD + CHOICES["a"][0] + offset(1) + len(KNOWN)))
"""
SHAPES = "WIDTH = 3\n"
CHANGES = {
    "constant of a helper's helper": ("FACTOR = 2.0", "FACTOR = 3.0"),
    "collection": ('"b": [3]', '"b": [4]'),
    "set": ('"z"}', '"w"}'),
    "expression": ('pl.col("x") * 3', 'pl.col("x") * 4'),
    "helper": ("return v * FACTOR", "return FACTOR * v"),
    "helper that calls its caller": ("n != 0 and", "n > 0 and"),
    "helper that is cached": ("return n + 1", "return n + 2"),
    "class": ("GOOD = 1", "GOOD = 2"),
    "table of functions": ('"twice": twice', '"once": twice'),
    "constant of another module": ("WIDTH = 3", "WIDTH = 4"),
}
NO_CHANGES = {
    "comment": ("FACTOR = 2.0", "FACTOR = 2.0  # as agreed"),
    "what is not used": ("UNUSED = 1", "UNUSED = 2"),
    "a function that is not used": ("return v\n", "return -v\n"),
    "order of a set": ('{"x", "y", "z"}', '{"z", "y", "x"}'),
}


def marks(folder, package, change=("", "")):
    """The fingerprints of a group by a ``prepare`` and of one by an expression that use what a package holds."""
    module = definitions(folder, package, change)
    return mark(prepare=module.prepare), mark(x.map_batches(module.twice, pl.Float64))


def definitions(folder, package, change=("", "")):
    home = folder / package
    home.mkdir()
    for name, text in {"__init__": "", "shapes": SHAPES, "definitions": MODULE}.items():
        (home / f"{name}.py").write_text(text.replace(*change) if change[0] else text)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(f"{package}.definitions")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    return marks(tmp_path_factory.mktemp("before"), "shop")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_prepare_uses_of_its_package_counts_too(tmp_path, unchanged, change):
    assert marks(tmp_path, f"shop_{tmp_path.name}", change)[0] != unchanged[0]


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_what_it_does_not_use_does_not_count(tmp_path, unchanged, change):
    assert marks(tmp_path, f"shop_{tmp_path.name}", change) == unchanged


@pytest.mark.parametrize(("change", "same"), [(("FACTOR = 2.0", "FACTOR = 3.0"), False), (("WIDTH = 3", ""), True)])
def test_what_a_function_in_an_expression_uses_counts_too(tmp_path, unchanged, change, same):
    assert (marks(tmp_path, f"shop_{tmp_path.name}", (change[0], change[1] or "WIDTH = 4"))[1] == unchanged[1]) is same


def test_a_plan_says_that_what_is_used_changed(tmp_path):
    before, after = (definitions(tmp_path, f"shop_then_{n}", ("FACTOR = 2.0", f"FACTOR = {n}.0")) for n in (2, 3))
    found = compare(*(describe_group(group(prepare=module.prepare)) for module in (before, after)))
    assert (found.needs, found.changed) == ("patch", ("prepare_uses: other code",))


def test_a_frame_of_a_module_is_found_however_deep_its_reader_hides():
    with pytest.raises(DefinitionError, match="uses 'AMOUNTS', a DataFrame that is no input"):
        group(prepare=lambda frame: frame.map_batches(lambda rows: looked_up(rows.head(1))))


AMOUNTS = pl.DataFrame({"x": [1.0]})


def looked_up(rows):
    return pl.concat([part.join(AMOUNTS, on="x") for part in [rows]])
