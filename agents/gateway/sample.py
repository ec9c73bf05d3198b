"""A demo's made-up past: an archive that is made when a forecast first needs it, and kept beside the demo's own."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from agents.cli import sample_archive
from agents.gateway.archive import ArchiveDoor

NOTE: Final = (
    "SIMULATED history: the demo has run for too short a time, so this is made from a made-up past of {gpus} GPUs "
    "(see `eo sample-archive`), not from this cluster"
)


class SampleDoor:
    """Opens on the made-up archive; `ready()` makes it once, within some seconds, from whichever thread asks."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self.door, self._folder = ArchiveDoor(folder, timeout_s=timeout_s), folder
        self.plan = sample_archive.Plan(end_s=int(time.time()))
        self._lock = threading.Lock()
        self.note = NOTE.format(gpus=self.plan.nodes * self.plan.gpus)

    def ready(self) -> None:
        """Raises EoError when it cannot be made."""
        with self._lock:
            if not (self._folder / "README.txt").exists():
                sample_archive.make(self._folder, self.plan)
