"""Namespaces and pods of the cluster's GPUs as telemetry tells them now, looked at every ten seconds by a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from agents.cli.placement import Place, Placement, by_namespace
from agents.gateway.periodic import Periodic
from streams.errors import StreamsError

log = logging.getLogger(__name__)
EVERY_S: Final = 10.0
NOBODY: Final = Place(None, None)


class Placements:
    """What is known of who holds which GPU; a node that has been silent for `stale_s` holds nothing that is known."""

    def __init__(
        self, look: Callable[[], Mapping[str, Placement]], *, wall_ns: Callable[[], int], stale_s: float
    ) -> None:
        self._look, self._wall_ns, self._stale_s = look, wall_ns, stale_s
        self._nodes: dict[str, Placement] = {}
        self.thread = Periodic("placements", EVERY_S, self.take)
        self.problem: str | None = "not looked at yet"

    def take(self) -> None:
        """One look; what it misses stays known until it is stale."""
        try:
            found = self._look()
        except StreamsError as error:
            if self.problem != str(error):
                log.warning("namespaces are not known live: %s", error)
            self.problem = str(error)
            return
        self.problem = None
        oldest = self._wall_ns() - int(self._stale_s * 1e9)
        self._nodes = {name: one for name, one in {**self._nodes, **found}.items() if one.ts_ns >= oldest}

    def _fresh(self) -> list[Placement]:
        oldest = self._wall_ns() - int(self._stale_s * 1e9)
        return [one for one in self._nodes.values() if one.ts_ns >= oldest]

    def namespaces(self) -> dict[str, frozenset[str]]:
        """GPUs of each namespace."""
        return by_namespace(self._fresh())

    def places(self) -> dict[str, Place]:
        """Who holds each GPU."""
        return {uuid: place for one in self._fresh() for uuid, place in one.gpus.items()}
