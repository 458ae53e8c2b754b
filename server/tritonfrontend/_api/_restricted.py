"""Features that only those may use who send a header with the right value."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonserver._c.errors import InvalidArgumentError, NotFoundError

__all__ = ["Feature", "FeatureGroup", "RestrictedFeatures"]


class Feature(enum.Enum):
    """The categories of requests."""

    HEALTH = "health"
    METADATA = "metadata"
    INFERENCE = "inference"
    SHM_MEMORY = "shared-memory"
    MODEL_CONFIG = "model-config"
    MODEL_REPOSITORY = "model-repository"
    STATISTICS = "statistics"
    TRACE = "trace"
    LOGGING = "logging"


@dataclass(frozen=True)
class FeatureGroup:
    """Some features and the header that they want. Raises InvalidArgumentError for what is no feature."""

    key: str
    value: str
    features: Feature | Sequence[Feature]

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not isinstance(self.value, str):
            raise InvalidArgumentError("FeatureGroup.key and FeatureGroup.value need to be of type str")
        object.__setattr__(self, "features", _listed(self.features))


class RestrictedFeatures:
    """What is restricted: one group for each feature, however they were given."""

    def __init__(self, groups: Sequence[FeatureGroup] = ()) -> None:
        self._groups: list[FeatureGroup] = []
        for group in groups:
            self.add_feature_group(group)

    def add_feature_group(self, group: FeatureGroup) -> None:
        features = _listed(group.features)
        for index, feature in enumerate(features):
            if self.has_feature(feature) or feature in features[:index]:
                raise InvalidArgumentError(
                    f"A given feature can only belong to one group. {feature} already belongs to an existing group."
                )
        self._groups += [FeatureGroup(group.key, group.value, [feature]) for feature in features]

    def create_feature_group(self, key: str, value: str, features: Feature | Sequence[Feature]) -> None:
        self.add_feature_group(FeatureGroup(key, value, features))

    def has_feature(self, feature: Feature) -> bool:
        return any(feature in _listed(group.features) for group in self._groups)

    def update_feature_group(self, feature: Feature, key: str, value: str) -> None:
        """Another header for a feature. Raises NotFoundError where it is free to all."""
        for index, group in enumerate(self._groups):
            if feature in _listed(group.features):
                self._groups[index] = FeatureGroup(key, value, [feature])
                return
        raise NotFoundError(f"{feature} is not being restricted.")

    def remove_features(self, features: Feature | Sequence[Feature]) -> None:
        """Free to all again. Raises InvalidArgumentError where one was that."""
        for feature in _listed(features):
            if not self.has_feature(feature):
                raise InvalidArgumentError(
                    f"{feature} is not present in any of the FeatureGroups for the RestrictedFeatures object and "
                    "therefore cannot be removed."
                )
            self._groups[:] = [group for group in self._groups if feature not in _listed(group.features)]

    def get_feature_groups(self) -> list[FeatureGroup]:
        """The list itself: later changes show in it."""
        return self._groups

    def _by_category(self) -> dict[str, tuple[str, str]]:
        """By category, the name and the value of the header."""
        return {
            feature.value: (group.key, group.value) for group in self._groups for feature in _listed(group.features)
        }

    def _document(self) -> list[dict[str, Any]]:
        return [
            {
                "key": group.key,
                "value": group.value,
                "features": [feature.value for feature in _listed(group.features)],
            }
            for group in self._groups
        ]

    def __repr__(self) -> str:
        return json.dumps(self._document())

    def __str__(self) -> str:
        return json.dumps(self._document(), indent=2)


def _listed(features: Feature | Sequence[Feature]) -> list[Feature]:
    if isinstance(features, Feature):
        return [features]
    if not isinstance(features, list):
        raise InvalidArgumentError("FeatureGroup.feature needs to be of type Feature or List[Feature]")
    wrong = [feature for feature in features if not isinstance(feature, Feature)]
    if wrong:
        raise InvalidArgumentError(f"Invalid features found: {wrong}. Valid options are: {list(Feature)}")
    return list(features)
