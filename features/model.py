"""Model specifications: what a model learns from, what it predicts and how it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

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
        Ref.parse(self.label)
        for text in (self.label_delay, self.predict_after, self.embargo or "0s"):
            try:
                duration(text)
            except InvalidInput as error:
                raise DefinitionError(f"model {self.name!r}: {error}") from error

    @property
    def label_ref(self) -> Ref:
        """The label as a reference."""
        return Ref.parse(self.label)

    @property
    def embargo_span(self) -> timedelta:
        """The gap in event time between training and test examples."""
        return duration(self.label_delay if self.embargo is None else self.embargo)
