"""The brake of the bench's row: the table that lies on the nodes, near a breaker's budget. Compiled with the kernel."""

from __future__ import annotations

from models.bench.state import C_BRAKE, C_BRAKED_S, C_CALM, OFF, Sim
from models.control.equations import Plant

BRAKE_AT = 0.97  # share of the row's budget at which low priority is braked (models.policy.budget)
CALM_BELOW = 0.90
CALM_S = 5.0  # below that for so long: one replica is let go
BRAKE_W = 200.0  # the lowest limit that an H100 takes


def brake(sim: Sim, p: Plant, share: float, now_s: float, span: float) -> None:
    """The table that lies on the nodes: near the budget low priority goes to its floor, and comes back one by one.

    What was asked for at the last step is set at this one, so that a brake lands a step late like everything else.
    """
    wanted = int(sim.clock[C_BRAKE])
    for r in range(sim.t.shape[0]):
        if sim.low[r] > 0 and wanted > 0 and sim.state[r] != OFF:
            wanted -= 1
            sim.limit_w[r] = BRAKE_W
            sim.braked_s[r] = now_s
            sim.clock[C_BRAKED_S] += span
        elif sim.low[r] > 0 and sim.limit_w[r] == BRAKE_W:
            sim.limit_w[r] = p.limit_w
    if share >= BRAKE_AT:
        sim.clock[C_BRAKE] = float(sim.t.shape[0])
        sim.clock[C_CALM] = now_s
    elif share >= CALM_BELOW:
        sim.clock[C_CALM] = now_s
    elif sim.clock[C_BRAKE] > 0.0 and now_s - sim.clock[C_CALM] >= CALM_S:
        lows = 0
        for r in range(sim.t.shape[0]):
            lows += sim.low[r]
        sim.clock[C_BRAKE] = min(sim.clock[C_BRAKE], float(lows)) - 1.0
        sim.clock[C_CALM] = now_s
