"""The feature registry as the store sees it: Feast's words for models.features. It holds no values.

An **entity** is a GPU, named by its UUID. A **feature view** is one registered feature of it with its window and time
to live. Values are **pushed** from energy.features.gpu.v1 and read online, or **point-in-time** from the archive.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from models.features.definition import FeatureDef
from models.features.registry import BY_NAME
from streams.store.errors import UnknownFeature

ENTITY: Final = "gpu"
JOIN_KEY: Final = "gpu_uuid"


def feature_view(name: str) -> FeatureDef:
    """The definition of a feature; raises UnknownFeature with the registered names."""
    if name not in BY_NAME:
        raise UnknownFeature(f"feature {name!r} is not registered; there are {', '.join(BY_NAME)}")
    return BY_NAME[name]


def feature_views() -> tuple[FeatureDef, ...]:
    """Every registered feature, in the order of the table."""
    return tuple(BY_NAME.values())


def ttl_s() -> Mapping[str, float]:
    """Time to live by feature, seconds: what OnlineStore and OfflineStore.point_in_time take."""
    return MappingProxyType({name: feature.ttl_s for name, feature in BY_NAME.items()})
