"""How the training jobs of a node are run: what their owner says of them. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

KNOBS: Final = ("clock", "power")


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """`slowdown`: how much longer a step may take than at the job's own default.

    `knob`: what is turned, "clock" or "power"; a limit only below a ceiling that the live envelope grants, else clocks.
    `steps`: job -> length of its run in steps, where it is known. `groups`: job -> the data-parallel job that it is a
    rank of; ranks of one group on this node are planned together.
    """

    slowdown: float = 0.05
    knob: str = "clock"
    steps: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
