"""River's half-space trees, one forest per GPU model and workload class: what an individual z-score cannot see.

A forest learns the usual combinations of power, clock, utilisation and heat of its class, and scores how rare a GPU's
present one is. Its state is its seed and its masses, so it is saved as numbers: the trees grow from the seed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from river.anomaly import HalfSpaceTrees

# Of a GPU with peers: its values beside theirs, so that neither load nor our own clock locks look rare.
BESIDE_PEERS: Final[dict[str, tuple[float, float]]] = {
    "power_ratio_to_peers": (0.5, 1.5),
    "sm_ratio_to_peers": (0.5, 1.5),
    "util_over_peers": (-1.0, 1.0),
    "temp_slope_c_per_min_over_peers": (-15.0, 15.0),
}
# Of a GPU alone. Outside values are clipped, because a tree cannot split beyond its limits.
ALONE: Final[dict[str, tuple[float, float]]] = {
    "power_w_mean_60s": (0.0, 1500.0),
    "sm_mhz_mean_60s": (0.0, 3000.0),
    "util_ratio_mean_60s": (0.0, 1.0),
    "temp_slope_c_per_min": (-30.0, 30.0),
}
TREES: Final = 10
HEIGHT: Final = 8
WINDOW: Final = 500
SEED: Final = 20_26


@dataclass(slots=True)
class ForestState:
    """A forest as numbers: masses of the non-empty nodes, per tree, by their place in depth-first order."""

    counter: int
    windows: int
    reference: list[dict[int, int]]
    latest: list[dict[int, int]]


class Forest:
    """A forest and the score from which a combination counts as rare.

    Recorded conversation load on the twin stays below 0.75.
    """

    def __init__(self, limits: Mapping[str, tuple[float, float]], *, threshold: float = 0.9) -> None:
        self.threshold, self.limits = threshold, dict(limits)
        self.windows = 0
        self._model = HalfSpaceTrees(n_trees=TREES, height=HEIGHT, window_size=WINDOW, limits=self.limits, seed=SEED)

    @property
    def silent(self) -> bool:
        """Until two windows have passed, rare only means new."""
        return self.windows < 2

    def score(self, features: Mapping[str, float]) -> float:
        """How rare the combination is, 0 to 1; then it is learned. 0 while silent."""
        x = {name: min(max(features[name], low), high) for name, (low, high) in self.limits.items()}
        score = 0.0 if self.silent else float(self._model.score_one(x))
        self._model.learn_one(x)
        if self._model.counter == 0:
            self.windows += 1
        return score

    def state(self) -> ForestState:
        """Everything that learning has changed."""
        nodes = self._model._tree_nodes
        return ForestState(
            counter=self._model.counter,
            windows=self.windows,
            reference=[{i: n.r_mass for i, n in enumerate(tree) if n.r_mass} for tree in nodes],
            latest=[{i: n.l_mass for i, n in enumerate(tree) if n.l_mass} for tree in nodes],
        )

    def restore(self, state: ForestState) -> None:
        """Grows the same trees and puts the masses back. Raises ValueError for a state of another shape."""
        self._model.learn_one(
            {name: low for name, (low, _) in self.limits.items()}
        )  # the trees are made by the first one
        if not len(state.reference) == len(state.latest) == len(self._model._tree_nodes):
            raise ValueError(f"{len(state.reference)} saved trees, {len(self._model._tree_nodes)} expected")
        for tree, reference, latest in zip(self._model._tree_nodes, state.reference, state.latest, strict=True):
            if max([*reference, *latest], default=0) >= len(tree):
                raise ValueError(f"a saved mass belongs to node {max([*reference, *latest])} of {len(tree)}")
            for i, node in enumerate(tree):
                node.r_mass, node.l_mass = reference.get(i, 0), latest.get(i, 0)
        self._model.counter, self.windows = state.counter, state.windows
        self._model._first_window = state.windows == 0
