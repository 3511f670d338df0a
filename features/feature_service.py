"""Feature services: the features that one model or application reads together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from features.checks import check_dtypes, check_positive, check_several
from features.entity import DataType, check_name
from features.errors import DefinitionError
from features.feature_group import RESERVED, Feature, FeatureGroup, check_derived

_REFERENCE = re.compile(r"([^@:\[\]]+)(?:@(\d+))?(?:\[([^\[\]]+)\])?:(.+)")


@dataclass(frozen=True)
class Ref:
    """A feature reference: "group:feature", or "group@2:feature" for a major version.

    "group[key=column]:feature" takes a key from another column of the entity rows, so that one group can be
    read twice, as for the sender and the receiver of a payment. Several keys are separated by commas.

    >>> Ref.parse("trips@2:mean_7d")
    Ref(group='trips', feature='mean_7d', major=2, keys=())
    >>> sender = Ref.parse("cards[card_id=sender_id]:mean_7d")
    >>> str(sender), sender.full_name
    ('cards[card_id=sender_id]:mean_7d', 'cards_by_sender_id__mean_7d')
    """

    group: str
    feature: str
    major: int | None = None
    keys: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read a reference; DefinitionError says how one is written."""
        found = _REFERENCE.fullmatch(text)
        keys = tuple(tuple(part.strip().split("=")) for part in found[3].split(",")) if found and found[3] else ()
        if found is None or any(len(pair) != 2 or not all(pair) for pair in keys):
            raise DefinitionError(
                f"{text!r} is no feature reference: write 'group:feature', 'group@2:feature' "
                f"or 'group[key=column]:feature'"
            )
        return cls(found[1], found[4], int(found[2]) if found[2] else None, keys)

    def __str__(self) -> str:
        return f"{self.place}:{self.feature}"

    @property
    def head(self) -> str:
        """The group as the reference names it, with its major where it asks for one: "trips" or "trips@2"."""
        return self.group if self.major is None else f"{self.group}@{self.major}"

    @property
    def place(self) -> str:
        """The head, and which columns its keys come from: "trips" or "trips[card_id=sender_id]"."""
        named = ",".join(f"{key}={column}" for key, column in self.keys)
        return f"{self.head}[{named}]" if named else self.head

    @property
    def full_name(self) -> str:
        """The column name with its group: ``group__feature``, ``group@2__feature`` or ``group_by_column__feature``."""
        by = f"_by_{'_and_'.join(column for _, column in self.keys)}" if self.keys else ""
        return f"{self.head}{by}__{self.feature}"


@dataclass(frozen=True, eq=False)
class FeatureService:
    """The features that one consumer reads together, with derived features over them.

    ``features`` are groups (all their features) or references (see ``Ref``); ``request`` names values that come
    with the request and their types; ``derived`` are element-wise expressions over feature short
    names (full names where two collide), request values and ``request_timestamp`` (the entity row's time,
    online now). ``sla`` is how long an answer over HTTP may take, like "20ms". ``requires`` are group requirements
    such as ``"wafer_aggregates>=1.1"``: reading the service where less is applied raises
    IncompatibleFeatureVersion.
    """

    name: str
    features: Sequence[FeatureGroup | str]
    _: KW_ONLY
    owner: str
    description: str
    request: Mapping[str, DataType] | None = None
    derived: Sequence[Feature] = ()
    sla: str | None = None
    requires: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_name("feature service", self.name)
        _check(self)

    @property
    def refs(self) -> list[Ref]:
        """Every reference in order; a group stands for all its features, stored then derived."""
        refs: list[Ref] = []
        for item in self.features:
            if isinstance(item, FeatureGroup):
                refs += [Ref(item.name, f.name) for f in (*item.features, *item.derived)]
            else:
                refs.append(Ref.parse(item))
        return list(dict.fromkeys(refs))


def _check(service: FeatureService) -> None:
    """Everything about a service that can be wrong on its own, with the remedy."""
    who = f"feature service {service.name!r}"
    _check_features(who, service.features)
    check_several(who, "requires", service.requires, str, "['trips>=1.1']")
    check_several(who, "derived", service.derived, Feature, "[Feature('ratio', pl.col('a') / pl.col('b'))]")
    if service.sla is not None:
        check_positive(who, "sla", service.sla)
    if service.request is not None:
        check_dtypes(who, "request", service.request)
    for name in service.request or ():
        check_name(f"{who}: request value", name)
        if name in RESERVED:
            raise DefinitionError(f"{who}: request value {name!r}: the name is reserved; choose another")
    for feature in service.derived:
        check_derived(who, feature)
    names = [*(service.request or ()), *(feature.name for feature in service.derived)]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DefinitionError(f"{who}: the name(s) {doubled} are used twice; rename one of them")


def _check_features(who: str, features: object) -> None:
    if isinstance(features, str) or not isinstance(features, Sequence):
        raise DefinitionError(f"{who}: features is {features!r}, not a list: write it like ['group:feature']")
    if not features:
        raise DefinitionError(f"{who} has no features: add groups or references")
    for item in features:
        if not isinstance(item, FeatureGroup | str):
            kind = type(item).__name__
            raise DefinitionError(f"{who}: features holds {kind}: list groups or references like 'group:feature'")
