"""Every error featurefab raises on purpose, in one tree.

A message names the object, says what is wrong and ends in what to do. Errors of the libraries
underneath (Delta, LMDB, MLflow, ...) are translated where they enter, in ``infra``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class FeatureFabError(Exception):
    """Base of every error that featurefab raises on purpose."""


class DefinitionError(FeatureFabError):
    """A definition (entity, source, group, service, model) is wrong; raised when it is written down."""


class DefinitionChanged(DefinitionError):
    """A group's definition differs from the one applied under the same version."""


class GroupHeld(FeatureFabError):
    """A group is held at an earlier version by a rollback: nothing is written until it is released."""


class NotRegistered(FeatureFabError):
    """A name or reference that the registry does not know."""


class InvalidInput(FeatureFabError):
    """A frame, timestamp, interval or value handed to a call does not fit."""


class StorageError(FeatureFabError):
    """A table or store could not be read or written."""


class ConcurrentRun(StorageError):
    """Another process committed the same step first; nothing was lost, run again."""


class UnreadableFile(FeatureFabError):
    """A delivered file that cannot be read at all.

    ``offset`` is the byte in the decompressed stream where reading failed, where known.
    """

    def __init__(self, reason: str, offset: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


class TrainingError(FeatureFabError):
    """A model cannot be trained on the data there is."""


class IncompatibleFeatureVersion(FeatureFabError):
    """A service or model asks for a newer group version than there is."""


class TrackingError(FeatureFabError):
    """The tracking server has no such model, version or run, or cannot be asked."""


class ParityBroken(FeatureFabError):
    """The online store answers something else than the offline store says it does."""


class StationsLost(FeatureFabError):
    """Some of a run's stations failed, and the others are done.

    ``lost`` says why by the station's name, ``facts`` what the others did.
    """

    def __init__(self, lost: Mapping[str, str], facts: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__("; ".join(f"{name}: {why}" for name, why in lost.items()))
        self.lost = dict(lost)
        self.facts = list(facts)


class ReproductionError(FeatureFabError):
    """A training set cannot be rebuilt as it was; the message names what is gone or differs."""


class SettingsError(FeatureFabError):
    """A setting has a value that cannot be used."""
