"""Definitions of a small shop. Change them into your own; ``REGISTRY`` and ``SUITES`` at the end name what counts."""

import polars as pl

from expectations.rules import Between, Expression, suite_for
from features import Entity, Feature, FeatureGroup, FeatureService, Registry, Source

customer = Entity("customer", keys={"customer_id": pl.String}, description="A customer of the shop.")

# Files of a source lie in a folder of its name. What is checked of them when they are taken in follows from here:
# every column is there in its type, and no row lacks its key or its event time. SUITES below says what else.
orders = Source(
    "orders",
    schema={
        "order_id": pl.String,
        "customer_id": pl.String,
        "items": pl.Int64,
        "amount": pl.Float64,
        "ordered_at": pl.Datetime("us", "UTC"),
    },
    event_timestamp="ordered_at",
    keys=["order_id"],  # the same order again is a correction: the latest one counts
    description="One row per order.",
)

weekly_spending = FeatureGroup(
    name="weekly_spending",
    version="1.0.0",  # raise it when you change what a feature means; `featurefab plan` says by how much
    entity=customer,
    source=orders,
    grain="window",
    every="1d",
    features=[
        Feature("orders_7d", pl.len(), window="7d", unit="orders", description="Orders of the last 7 days."),
        Feature("spent_7d", pl.col("amount").sum(), window="7d", unit="EUR", description="What they cost together."),
        Feature("mean_order_7d", pl.col("amount").mean(), window="7d", unit="EUR", description="What one cost."),
    ],
    ttl="30d",
    schedule="15 0 * * *",  # a quarter past midnight
    owner="me",
    description="What a customer bought in the week before each midnight (UTC).",
)

last_order = FeatureGroup(
    name="last_order",
    version="1.0.0",
    entity=customer,
    source=orders,
    grain="event",
    features=[
        Feature("last_amount", pl.col("amount"), unit="EUR", range=(0, None), description="What it cost."),
        Feature("last_items", pl.col("items"), unit="items", range=(1, None), description="Number of items in it."),
    ],
    derived=[
        Feature(
            "price_per_item",
            pl.col("last_amount") / pl.col("last_items"),
            unit="EUR",
            description="What one item of it cost.",
        ),
    ],
    ttl="365d",
    schedule="*/30 * * * *",  # every half hour
    owner="me",
    description="The newest order of a customer.",
)

checkout = FeatureService(
    "checkout",
    ["weekly_spending:orders_7d", "weekly_spending:mean_order_7d", "last_order:last_amount"],
    derived=[
        Feature(
            "times_usual",
            pl.col("last_amount") / pl.col("mean_order_7d"),
            description="The newest order over the usual one.",
        ),
    ],
    owner="me",
    description="What the checkout page asks for.",
)

REGISTRY = Registry([weekly_spending, last_order, checkout])

# Rows that break a rule go to quarantine: `featurefab quarantine list`.
SUITES = {
    "orders": suite_for(
        orders,
        rows=[
            Between(name="items_range", column="items", low=1),
            Expression(
                name="price_per_item_sane",
                ok=pl.col("amount") / pl.col("items") <= 500,
                why="an item costs more than 500 euros",
            ),
        ],
    ),
}
