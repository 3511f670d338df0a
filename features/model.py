"""Model specifications: what a model learns from, what it predicts and how it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from features.checks import check_is, check_several
from features.entity import check_name
from features.errors import DefinitionError, InvalidInput
from features.feature_service import FeatureService, Ref
from features.times import duration

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
