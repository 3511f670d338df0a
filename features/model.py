"""Model specifications: what a model learns from, what it predicts and how it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from features.checks import check_is, check_several
from features.entity import DataType, Entity, check_name
from features.errors import DefinitionError, InvalidInput
from features.feature_group import EVENT_TIMESTAMP
from features.feature_service import FeatureService, Ref
from features.source import Source
from features.times import EPOCH, UTC_US, duration

if TYPE_CHECKING:  # scikit-learn takes a second to import, and a definition only holds the estimator
    from sklearn.base import BaseEstimator


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """A model: a service's features, a label and an unfitted scikit-learn estimator.

    ``label`` is the reference of a stored feature; its group's rows are the training examples. An
    example is asked ``predict_after`` after its row's event time (what was served then is what the
    model sees), and its label counts as known ``label_delay`` after the event time. Between training
    and test examples, split by time, an ``embargo`` (default: ``label_delay``) is left out. Entity
    keys of other groups in the service come from the label group's features of that name.
    ``requires`` are group requirements such as ``"wafer_aggregates>=1.1"``.
    """

    name: str
    service: FeatureService
    label: str
    estimator: BaseEstimator
    _: KW_ONLY
    owner: str
    description: str
    label_delay: str = "0s"
    embargo: str | None = None
    metrics: Sequence[str] = ()
    predict_after: str = "0s"
    requires: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_name("model", self.name)
        who = f"model {self.name!r}"
        check_is(who, "service", self.service, FeatureService, "FeatureService('risk', [...])")
        check_is(who, "label", self.label, str, "'outcomes:returned'")
        check_several(who, "metrics", self.metrics, str, "['roc_auc']")
        check_several(who, "requires", self.requires, str, "['trips>=1.1']")
        Ref.parse(self.label)
        for text in (self.label_delay, self.predict_after, self.embargo or "0s"):
            check_is(who, "a duration", text, str, "'15m', '36h' or '7d'")
            try:
                duration(text)
            except InvalidInput as error:
                raise DefinitionError(f"{who}: {error}") from error

    @property
    def label_ref(self) -> Ref:
        """The label as a reference."""
        return Ref.parse(self.label)

    @property
    def embargo_span(self) -> timedelta:
        """The gap in event time between training and test examples."""
        return duration(self.label_delay if self.embargo is None else self.embargo)

    def predictions(self, entity: Entity) -> Predictions:
        """What the model answered about ``entity``, that of its label's group: an input for groups, like a source.

        See ``Predictions`` for the columns. Raises DefinitionError where a key has the name of one of them.

        >>> about = {"owner": "risk", "description": "Losses of a card."}
        >>> model = ModelSpec("losses", FeatureService("spent", ["cards:sum"], **about), "cards:lost", None, **about)
        >>> list(model.predictions(Entity("card", keys={"card_id": pl.Int64})).schema)
        ['card_id', 'event_timestamp', 'prediction', 'predicted_at', 'model_version', 'run_id']
        """
        return _predictions(self, entity)


@dataclass(frozen=True, eq=False)
class Predictions(Source):
    """A model's predictions as a source of groups; made by ``ModelSpec.predictions``, written by scoring.

    A row is one answer: the entity's keys, ``event_timestamp`` (the label row's event time: the moment
    predicted for), ``prediction`` (for a classifier the probability of the greater class), ``predicted_at``,
    ``model_version`` and the ``run_id`` of its training. It arrives when it is given. Asked again about the
    same entity and moment, a model's latest answer counts from then on.
    """

    _: KW_ONLY
    model: ModelSpec

    def _check_name(self) -> None:
        """Its name is made from the model's, which was checked."""


_ANSWER: dict[str, tuple[DataType, str]] = {
    EVENT_TIMESTAMP: (UTC_US, "The moment predicted for: the event time of the label's row."),
    "prediction": (pl.Float64(), "What was predicted; for a classifier the probability of the greater class."),
    "predicted_at": (UTC_US, "When the model was asked."),
    "model_version": (pl.String(), "The registered version that answered."),
    "run_id": (pl.String(), "The run that trained this version."),
}


@cache  # so that two groups that read the same predictions read one source
def _predictions(model: ModelSpec, entity: Entity) -> Predictions:
    if taken := sorted(entity.keys & _ANSWER.keys()):
        raise DefinitionError(
            f"model {model.name!r}: its predictions have column(s) {taken} of their own: "
            f"rename these keys of entity {entity.name!r}"
        )
    return Predictions(
        f"predictions/{model.name}",
        {**entity.keys, **{column: dtype for column, (dtype, _) in _ANSWER.items()}},
        EVENT_TIMESTAMP,
        keys=entity.key_names,
        live_since=EPOCH,
        description=f"What model {model.name!r} answered about each {entity.name}.",
        columns={column: text for column, (_, text) in _ANSWER.items()},
        model=model,
    )
