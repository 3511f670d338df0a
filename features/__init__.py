"""featurefab: define features once, materialize, serve and audit them."""

from features.entity import Entity
from features.feature_group import Feature, FeatureGroup
from features.feature_service import FeatureService
from features.model import ModelSpec
from features.registry import Registry
from features.source import Source
from features.store import FeatureStore

__all__ = [
    "Entity",
    "Feature",
    "FeatureGroup",
    "FeatureService",
    "FeatureStore",
    "ModelSpec",
    "Registry",
    "Source",
]
