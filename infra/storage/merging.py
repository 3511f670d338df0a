"""What every online store does alike when rows are merged and published."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from features.errors import InvalidInput
from features.stores import Publication
from features.times import from_micros
from infra.storage.codec import Batch, row_order


class Progress(NamedTuple):
    """Where a table stands on a target: the last plan published, its entities, those not deleted.

    ``pushed`` is the stamp, in µs, up to which pushes are there; -1 for none.
    """

    watermark: int = 0
    entities: int = 0
    live: int = 0
    pushed: int = -1

    def pushed_at(self) -> datetime | None:
        """The stamp up to which pushes are there, None for none."""
        return None if self.pushed < 0 else from_micros(self.pushed)


class Winners(NamedTuple):
    """The rows of a batch that are to be written, and how they change the table's counts."""

    pairs: list[tuple[bytes, bytes]]
    new: int
    live: int


def due(publication: Publication, table_id: str, watermark: int, target: str) -> Publication | None:
    """What of a publication is still to be done; None if all its plans were published before.

    A repeated sync finds nothing to do, and of plans that another sync published meanwhile only the
    rest is kept, so every plan is published once. Raises InvalidInput where plans would be skipped.
    """
    if publication.table_id != table_id:
        raise InvalidInput(f"rows of {table_id!r} come with a publication of {publication.table_id!r}: pass its own")
    if publication.plan <= watermark:
        return None
    if publication.after > watermark:
        missed = f"plans {watermark + 1} to {publication.after} of {table_id!r} never reached {target!r}"
        raise InvalidInput(f"{missed}: sync from its watermark, {watermark}")
    return Publication(table_id, watermark, publication.plan, publication.published_at)


def winners(batch: Batch, found: Mapping[bytes, bytes]) -> Winners:
    """The rows of a batch that beat what the store has, ``found``, for their keys.

    The greater order wins; an equal one is the same row and changes nothing.
    """
    if not found:
        live = batch.deleted.count(False)
        return Winners(list(zip(batch.keys, batch.values, strict=True)), len(batch.keys), live)
    pairs, new, live = [], 0, 0
    for key, value, order, deleted in zip(batch.keys, batch.values, batch.orders, batch.deleted, strict=True):
        if (old := found.get(key)) is None:
            new += 1
        else:
            old_order, old_deleted = row_order(old)
            if order <= old_order:
                continue
            live -= not old_deleted
        live += not deleted
        pairs.append((key, value))
    return Winners(pairs, new, live)
