"""Model specifications: what a model learns from, what it predicts and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sklearn.base import BaseEstimator

from features.entity import check_name
from features.errors import DefinitionError
from features.feature_service import FeatureService, Ref
from features.time import duration


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
    estimator: Callable[[], BaseEstimator]
    label_delay: str = "0s"
    embargo: str | None = None
    metrics: Sequence[str] = ()
    predict_after: str = "0s"
    requires: Sequence[str] = ()
    owner: str = ""
    description: str = ""

    def __init__(
        self,
        name: str,
        service: FeatureService,
        label: str,
        estimator: Callable[[], BaseEstimator],
        *,
        owner: str,
        description: str,
        label_delay: str = "0s",
        embargo: str | None = None,
        metrics: Sequence[str] = (),
        predict_after: str = "0s",
        requires: Sequence[str] = (),
    ) -> None:
        check_name("model", name)
        Ref.parse(label)
        for text in (label_delay, predict_after, embargo or "0s"):
            try:
                duration(text)
            except Exception as error:
                raise DefinitionError(f"model {name!r}: {error}") from error
        values = dict(name=name, service=service, label=label, estimator=estimator, label_delay=label_delay)
        values |= dict(embargo=embargo, metrics=tuple(metrics), predict_after=predict_after)
        values |= dict(requires=tuple(requires), owner=owner, description=description)
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @property
    def label_ref(self) -> Ref:
        """The label as a reference."""
        return Ref.parse(self.label)

    @property
    def embargo_span(self) -> timedelta:
        """The gap in event time between training and test examples."""
        return duration(self.label_delay if self.embargo is None else self.embargo)
