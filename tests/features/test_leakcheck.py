"""The leak check catches what looks ahead, names it, and says nothing of late and corrected rows."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card_payments import ABOUT, HOUR, SCHEMA, T0, amount, card, paid, payments
from features import Feature, FeatureGroup, FeatureService, FeatureStore, ModelSpec, Registry, Source
from features.definitions import REGISTRY
from features.errors import InvalidInput
from features.leakcheck import leakcheck
from infra.ingest import open_ingestor
from infra.sources.simulated_fab import SimulatedFab
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore
from infra.wiring import open_platform

live_payments = Source("payments", SCHEMA, "at", keys=["payment_id"], live_since=T0)
disputes = Source("disputes", {"card_id": pl.Int64, "said_at": pl.Datetime("us", "UTC")}, "said_at")
seen = [Feature("seen", pl.col("seen"))]
BY_CARD = {"prepare_by": ["card_id"], "grain": "event"}
EVERY_3H = {"grain": "window", "every": "3h"}


def group(features=seen, source=payments, **options):
    return FeatureGroup("g", "1.0.0", card, source, features, **(ABOUT | options))


def next_amount(rows):
    return rows.with_columns(seen=amount.shift(-1).over("card_id", order_by="at"))


def previous_amount(rows):
    return rows.with_columns(seen=amount.shift(1).over("card_id", order_by="at"))


def mean_of_the_day(rows):
    return rows.with_columns(seen=amount.mean().over("card_id", pl.col("at").dt.date()))


def was_disputed(payments, disputes):
    return payments.join(disputes.select("card_id", seen=pl.lit(1)).unique(), on="card_id", how="left")


def last_only(rows):
    return rows.sort("at").unique(subset="card_id", keep="last").with_columns(seen="amount")


def filled(folder, registry, rows, later=()):
    """A store with payments written in one batch, disputes in another, at the last row's time and after."""
    now = [T0]
    store = FeatureStore(Registry(registry), DeltaLake(folder), MemoryOnlineStore(), lambda: now[0])
    store.write_source("payments", paid(*rows))
    if later:
        store.write_source("disputes", pl.DataFrame(later, dict(disputes.schema), orient="row"))
    now[0] = T0 + 100 * HOUR
    return store


def check(store, **options):
    return leakcheck(store.registry, store.offline, "g", now=store.now(), **options)


ROWS = [(i, i % 3, float(i * i % 17), T0 + i * HOUR) for i in range(60)]
PLANTED = {
    "a neighbour tested later": (
        group(prepare=next_amount, **BY_CARD),
        "`prepare` makes column 'seen' from later rows",
    ),
    "the mean of a whole day": (
        group(prepare=mean_of_the_day, **BY_CARD),
        "`prepare` makes column 'seen' from later rows",
    ),
    "a neighbour, and prepare_by left out": (
        group(prepare=next_amount, grain="event"),
        "`prepare` makes column 'seen' from later rows",
    ),
    "a later file of a second input": (
        group(source={"payments": payments, "disputes": disputes}, prepare=was_disputed, **BY_CARD),
        "`prepare` makes column 'seen' from later rows",
    ),
    "rows kept by what came later": (
        group(prepare=last_only, **BY_CARD),
        "`prepare` keeps or drops a row by later ones",
    ),
    "the mean of a whole day, in windows, and prepare_by left out": (
        group([Feature("seen", pl.col("seen").sum(), window="12h")], prepare=mean_of_the_day, **EVERY_3H),
        "`prepare` makes column 'seen' from later rows",
    ),
}


@pytest.mark.parametrize("source", [payments, live_payments], ids=["history", "live"])
def test_windows_with_prepare_by_cannot_look_ahead(tmp_path, source):
    mean = [Feature("seen", pl.col("seen").sum(), window="12h")]
    one = group(mean, source, prepare=mean_of_the_day, prepare_by=["card_id"], **EVERY_3H)
    report = check(filled(tmp_path, [one], ROWS))
    assert report.leaks == []
    assert report.features[0].compared > 0


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_leak_is_caught_and_explained(tmp_path, name):
    leaky, cause = PLANTED[name]
    disputed = [(0, T0 + 33.5 * HOUR)] if "disputes" in leaky.inputs else ()
    report = check(filled(tmp_path, [leaky], ROWS, disputed))
    (leak,) = report.leaks
    (feature,) = report.features
    assert 0 < feature.changed <= feature.compared
    assert leak.cause == cause
    assert leak.then != leak.now
    assert leak.event_timestamp <= leak.moment
    assert leak.later is not None
    name, _, moment = leak.later.partition(" of ")
    assert name == ("disputes" if disputed else "payments")
    assert datetime.fromisoformat(f"{moment}+00:00") > leak.moment


def test_the_row_that_gives_a_leak_away_is_found(tmp_path):
    leaky, _ = PLANTED["a neighbour tested later"]
    (leak,) = check(filled(tmp_path, [leaky], ROWS)).leaks
    following = leak.event_timestamp + 3 * HOUR  # each card pays every three hours
    assert leak.later == f"payments of {following:%F %T}"
    assert leak.entity == {"card_id": (leak.event_timestamp - T0) // HOUR % 3}
    assert (leak.then, leak.now) == (None, float(((following - T0) // HOUR) ** 2 % 17))


def test_what_a_publish_delay_covers_is_no_leak(tmp_path):
    covered = group(prepare=next_amount, publish_delay="3h", **BY_CARD)
    short = group(prepare=next_amount, publish_delay="2h", **BY_CARD)
    assert check(filled(tmp_path / "a", [covered], ROWS)).leaks == []
    assert len(check(filled(tmp_path / "b", [short], ROWS)).leaks) == 1


@pytest.mark.parametrize(("label_delay", "leaks"), [("2d", 0), ("1h", 1)])
def test_a_label_may_look_ahead_as_far_as_its_label_delay(tmp_path, label_delay, leaks):
    label = group(prepare=next_amount, **BY_CARD)
    other = FeatureGroup("other", "1.0.0", card, payments, [Feature("amount", amount)], grain="event", **ABOUT)
    service = FeatureService("s", [other], **ABOUT)
    model = ModelSpec("m", service, "g:seen", object(), label_delay=label_delay, **ABOUT)
    assert len(check(filled(tmp_path, [label, other, service, model], ROWS)).leaks) == leaks


def test_a_row_that_hides_how_late_what_it_is_made_of_arrived_is_caught(tmp_path):
    """Without prepare_by a row keeps its own arrival, although it looks at one that came later."""
    hiding, telling = (
        group(prepare=previous_amount, source=live_payments, grain="event", **by)
        for by in ({}, {"prepare_by": ["card_id"]})
    )
    for name, one, found in (("a", hiding, 1), ("b", telling, 0)):
        now = [T0 + 10 * HOUR]
        store = FeatureStore(Registry([one]), DeltaLake(tmp_path / name), MemoryOnlineStore(), lambda now=now: now[0])
        for number, hour in ((2, 2), (3, 11), (1, 1)):  # the first payment is the last to come
            row = (number, 1, float(number), T0 + hour * HOUR)
            store.write_source("payments", paid(row))
            now[0] += 5 * HOUR
        leaks = check(store, moments=30).leaks
        assert len(leaks) == found
        assert all(leak.cause.startswith("the row was made from rows that arrived after") for leak in leaks)


def test_a_sample_of_entities_keeps_key_groups_whole(tmp_path):
    rows = [(i, i % 40, float(i % 7), T0 + i * timedelta(minutes=10)) for i in range(400)]
    store = filled(tmp_path, [group(prepare=previous_amount, **BY_CARD)], rows)
    report = check(store, entities=5, moments=3)
    assert (report.rows, len(report.moments), report.leaks) == (50, 3, [])


def test_nothing_to_compare_is_no_leak_and_nonsense_is_refused(tmp_path):
    store = FeatureStore(Registry([group(prepare=next_amount, **BY_CARD)]), DeltaLake(tmp_path), MemoryOnlineStore())
    report = check(store)
    assert (report.rows, list(report.moments), report.leaks) == (0, [], [])
    with pytest.raises(InvalidInput, match="at least one moment"):
        check(store, moments=0)


HONEST = {
    "event": group(prepare=previous_amount, source=live_payments, **BY_CARD),
    "event, plain": group([Feature("seen", amount)], source=live_payments, grain="event"),
    "entity, settling": group([Feature("seen", amount.sum())], source=live_payments, grain="entity", settle="2h"),
    "entity, daily": group([Feature("seen", amount.sum())], source=live_payments, grain="entity", every="1d"),
    "window": group([Feature("seen", amount.sum(), window="12h")], source=live_payments, grain="window", every="3h"),
    "window, prepared": group(
        [Feature("seen", pl.col("seen").sum(), window="1d")],
        source=live_payments,
        prepare=previous_amount,
        prepare_by=["card_id"],
        grain="window",
        every="12h",
        publish_delay="30m",
    ),
}
ARRIVALS = st.lists(
    # payment, card, hours between event and arrival, amount: the same payment again is a correction
    st.tuples(st.integers(0, 6), st.integers(1, 2), st.integers(0, 20), st.integers(1, 9)),
    min_size=2,
    max_size=9,
)


@pytest.mark.parametrize("name", HONEST)
@settings(max_examples=5)
@given(arrivals=ARRIVALS)
def test_late_and_corrected_rows_raise_no_alarm(tmp_path_factory, name, arrivals):
    check_quiet(tmp_path_factory.mktemp("lake"), name, arrivals)


@pytest.mark.prove
@pytest.mark.parametrize("name", HONEST)
@settings(max_examples=60)
@given(arrivals=ARRIVALS)
def test_many_late_and_corrected_rows_raise_no_alarm(tmp_path_factory, name, arrivals):
    check_quiet(tmp_path_factory.mktemp("lake"), name, arrivals)


def check_quiet(folder, name, arrivals):
    now = [T0]
    store = FeatureStore(Registry([HONEST[name]]), DeltaLake(folder), MemoryOnlineStore(), lambda: now[0])
    for payment, card_id, late, value in arrivals:
        now[0] += 7 * HOUR
        moment = T0 + payment * 5 * HOUR if late > 10 else now[0] - late * HOUR
        row = (payment, card_id, float(value), min(moment, now[0]))
        store.write_source("payments", paid(row))
    now[0] += 40 * HOUR
    assert check(store, moments=4).leaks == []


@pytest.fixture(scope="module")
def fab_home(tmp_path_factory):
    home, landing = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("landing")
    fab = SimulatedFab(days=4, wafers_per_day=2, dies_per_wafer=60)
    fab.write(landing)
    now = fab.start + timedelta(days=6)
    with open_platform(REGISTRY, home, lambda: now) as platform:
        open_ingestor(platform).ingest([landing])
        yield platform


@pytest.mark.parametrize("name", REGISTRY.groups)
def test_the_shipped_definitions_do_not_leak(fab_home, name):
    report = leakcheck(REGISTRY, fab_home.store.offline, name, now=fab_home.store.now(), moments=8)
    assert report.leaks == []
    assert all(check.compared > 0 for check in report.features)
