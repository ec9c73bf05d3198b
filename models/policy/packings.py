"""How densely each strategy packs replicas: one table for the actuation job and for the bench that proved it.

Chosen on days 0-2 of the Azure 2024 week and frozen (docs/benchmarks/control.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from models.policy.replicas import Packing

# Bounds in percent of default clocks: the packing yields to late first tokens, so it may begin dense.
_BALANCED: Final = Packing(busy_upper=0.85, z=1.5, down_after_s=900.0, first=0.8)
PACKINGS: Final[dict[str, Packing]] = {
    "conservative": replace(_BALANCED, busy_upper=0.8),
    "balanced": _BALANCED,
    "ml-driven": _BALANCED,
    # Room by how wrong the forecast was. The densest that leaves no hour outside on tuning days at three times their
    # pace (`--parts stress`): surges that are faster than any of those days had.
    "aggressive": Packing(busy_upper=0.9, z=5.0),
}
