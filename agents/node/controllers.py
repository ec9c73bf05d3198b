"""What the control loop is given to make controllers with: the one of a serving stack, and where chunk sizes go."""

from __future__ import annotations

from typing import Protocol

from agents.node.engine_drive import ControllerPort
from models.control.profiles import profile_for

ChunkRange = tuple[int, int]


class ChunkPort(Protocol):
    """Where an engine takes its chunk size while it runs. No engine that this product reads does; the twin's do."""

    def chunk_range(self, engine: str) -> ChunkRange | None:
        """Smallest and largest size; None = it takes none, and the controller plans without that lever."""
        ...

    def set_chunk(self, engine: str, tokens: int | None) -> None:
        """Sets a size; None = the engine's own."""
        ...


def local_controller(stack: str, chunk_range: ChunkRange | None = None) -> ControllerPort:
    """The controller of a serving stack; one without a known profile never goes below 95 % of the default clock."""
    from models.control.controller import LocalController

    return LocalController(profile_for(stack), chunk_range=chunk_range)
