"""A node at the wall: GPUs, host, fans and power supplies. Vectorised over nodes; it must not know of time.

Host, fans and idle are assumptions with an interval: nobody publishes them for H100 nodes. What holds them: the highest
measured wall power of a node with eight H100 (8.4 kW, IEEE Access 13, 2025), and servers and GPUs of Acme's A100
cluster (Hu et al., NSDI 2024). `eo bench twin` reports both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Share of the rated load -> efficiency: the test points of 80 PLUS Titanium at 230 V (90, 94, 96, 91 %).
_PSU_LOAD: Final = np.array([0.0, 0.1, 0.2, 0.5, 1.0])
_PSU_EFFICIENCY: Final = np.array([0.75, 0.90, 0.94, 0.96, 0.91])


@dataclass(frozen=True, slots=True)
class NodeParams:
    """Watts of one node besides its GPUs."""

    gpus: int = 8
    host_idle_w: float = 1100.0  # CPUs, memory, switches, network cards, disks
    host_busy_w: float = 1500.0  # with all GPUs at work
    board_loss: float = 0.04  # of GPU watts: converters between the supply and the GPU board
    fan_max_w: float = 900.0  # at full flow
    fan_least_flow: float = 0.3
    full_heat_w: float = 7300.0  # heat at which the fans run at full flow with an inlet of 27 C
    inlet_flow_per_k: float = 0.03  # more flow for each kelvin above 27 C
    psu_rated_w: float = 10_000.0  # what shares the load (redundant supplies left out)
    idle_bare_w: float = 70.0  # of a GPU without a context (context loaded: DeviceCurve.idle_w and idle_clock_w)
    off_w: float = 40.0  # the board controller of a node that is off
    boot_s: float = 420.0  # until a model answers again


LOW: Final = NodeParams(host_idle_w=800.0, host_busy_w=1200.0, fan_max_w=600.0, off_w=20.0)
MID: Final = NodeParams()
HIGH: Final = NodeParams(host_idle_w=1400.0, host_busy_w=1800.0, fan_max_w=1200.0, off_w=60.0)
ACME_A100: Final = replace(MID, host_idle_w=900.0, host_busy_w=1500.0, full_heat_w=4200.0, psu_rated_w=6600.0)


@dataclass(frozen=True, slots=True)
class NodePower:
    """Where the watts go; `wall_w` is their sum."""

    gpu_w: Array
    host_w: Array
    fan_w: Array
    loss_w: Array  # converters and supplies
    wall_w: Array


def node_power(
    params: NodeParams, *, gpu_w: Array, busy_ratio: Array, on: NDArray[np.bool_] | None = None, inlet_c: float = 27.0
) -> NodePower:
    """Watts of each node: gpu_w of all its GPUs together, busy_ratio their mean; off nodes keep only their BMC."""
    board_w = gpu_w * params.board_loss
    host_w = params.host_idle_w + (params.host_busy_w - params.host_idle_w) * np.clip(busy_ratio, 0.0, 1.0)
    heat_w = gpu_w + board_w + host_w
    flow = heat_w / params.full_heat_w * (1.0 + params.inlet_flow_per_k * max(inlet_c - 27.0, 0.0))
    fan_w = params.fan_max_w * np.clip(flow, params.fan_least_flow, 1.0) ** 3  # fan law: watts follow the flow's cube
    direct_w = heat_w + fan_w
    wall_w = direct_w / psu_efficiency(direct_w / params.psu_rated_w)
    found = NodePower(gpu_w, host_w, fan_w, board_w + wall_w - direct_w, wall_w)
    return found if on is None else _switched(found, on, params.off_w)


def psu_efficiency(load_ratio: Array) -> Array:
    """Of the supplies at a share of their rated load."""
    return np.asarray(np.interp(load_ratio, _PSU_LOAD, _PSU_EFFICIENCY), dtype=np.float64)


def _switched(power: NodePower, on: NDArray[np.bool_], off_w: float) -> NodePower:
    none = np.zeros_like(power.wall_w)
    return NodePower(
        np.where(on, power.gpu_w, none),
        np.where(on, power.host_w, none),
        np.where(on, power.fan_w, none),
        np.where(on, power.loss_w, none + off_w),
        np.where(on, power.wall_w, none + off_w),
    )
