"""What surrounds the GPUs of a replica: host, fans, power supply, boot. Nobody publishes these: assumptions, stated."""

from __future__ import annotations

from typing import NamedTuple


class Node(NamedTuple):
    """Watts of a node of `replicas` serving replicas (8 GPUs = 2 replicas of 4).

    wall = (host + GPU * (1 + host_per_gpu_w)) / supply_ratio: 8.7 kW at 8 x 700 W (8.4 kW is the highest measured on an
    8 x H100 node, IEEE Access 13, 2025). Off: what the BMC draws. Boot: model start, 6-8 minutes in DynamoLLM.
    """

    replicas: float = 2.0
    host_w: float = 1500.0
    host_per_gpu_w: float = 0.2  # fans and VRM losses that follow the GPUs
    supply_ratio: float = 0.95
    bare_w: float = 70.0  # GPU on a live node without a context
    off_w: float = 40.0
    boot_s: float = 420.0
    boot_w: float = 100.0  # GPU while a model loads
    off_gpu_w: float = 0.0  # GPU on a node that is off
