"""Feature services: the features that one model or application reads together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from features.checks import check_dtypes, check_several
from features.entity import DataType, check_name
from features.errors import DefinitionError
from features.feature_group import RESERVED, Feature, FeatureGroup, check_derived


@dataclass(frozen=True)
class Ref:
    """A feature reference: "group:feature", or "group@2:feature" for a major version.

    >>> Ref.parse("trips@2:mean_7d")
    Ref(group='trips', feature='mean_7d', major=2)
    >>> str(Ref.parse("trips:mean_7d"))
    'trips:mean_7d'
    """

    group: str
    feature: str
    major: int | None = None

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read a reference; DefinitionError says how one is written."""
        head, _, feature = text.partition(":")
        group, at, major = head.partition("@")
        if not group or not feature or (at and not major.isdigit()):
            raise DefinitionError(f"{text!r} is no feature reference: write 'group:feature' or 'group@2:feature'")
        return cls(group, feature, int(major) if at else None)

    def __str__(self) -> str:
        return f"{self.head}:{self.feature}"

    @property
    def head(self) -> str:
        """The group as the reference names it, with its major where it asks for one: "trips" or "trips@2"."""
        return self.group if self.major is None else f"{self.group}@{self.major}"

    @property
    def full_name(self) -> str:
        """The column name with its group: ``group__feature``, or ``group@2__feature``."""
        return f"{self.head}__{self.feature}"


@dataclass(frozen=True, eq=False)
class FeatureService:
    """The features that one consumer reads together, with derived features over them.

    ``features`` are groups (all their features) or references; ``request`` names values that come
    with the request and their types; ``derived`` are element-wise expressions over feature short
    names (full names where two collide), request values and ``request_timestamp`` (the entity row's time,
    online now). ``requires`` are group requirements such as ``"wafer_aggregates>=1.1"``: reading the service
    where less is applied raises IncompatibleFeatureVersion.
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
