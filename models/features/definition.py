"""What a feature is: a name with its unit, its window, how long a value stays fresh, and one pure function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from models.features.window import Floats, Windows

DECIMALS: Final = 6  # a microwatt is below every sensor, and short numbers halve the bytes of a message


@dataclass(frozen=True, slots=True)
class FeatureDef:
    """One feature of one GPU. `ttl_s` is how long the online store may serve a value after the end of its window."""

    name: str
    unit: str
    window_s: float
    columns: tuple[str, ...]
    formula: str
    function: Callable[[Windows], Floats]
    ttl_s: float = 10.0
    entity: Literal["gpu"] = "gpu"
    source: str = ""

    def compute(self, window: Windows) -> Floats:
        """Windows of n GPUs to n values, NaN where a value cannot be known, rounded to DECIMALS.

        Stream and offline computation both come through here, so they round alike.
        """
        return np.round(self.function(window), DECIMALS)
