"""What a feature is: a name with its unit, its window, how long a value stays fresh, and one pure function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from models.features.window import Floats, Window


@dataclass(frozen=True, slots=True)
class FeatureDef:
    """One feature of one GPU.

    `compute` takes windows of n GPUs and returns n values, NaN where a value cannot be known. `ttl_s` is how long the
    online store may serve a value after the end of its window.
    """

    name: str
    unit: str
    window_s: float
    columns: tuple[str, ...]
    formula: str
    compute: Callable[[Window], Floats]
    ttl_s: float = 10.0
    entity: Literal["gpu"] = "gpu"
    source: str = ""
