"""Every parameter of the twin that no fit of the project gives: its value, interval, source and date, as one table.

The values are read off the code that uses them, so that the table cannot say otherwise; `data/assumed.json` is this
table as a file (`python -m models.twin.assumed > models/twin/data/assumed.json`), and a test holds it to the code.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from models.control.profiles import LLAMA_70B_H100X4
from models.twin.node import HIGH, LOW, MID
from models.twin.params import ActuationParams, ThermalParams, variant
from models.twin.room import RoomParams

DATE: Final = "2026-11-26"
MLENERGY: Final = "ML.ENERGY leaderboard, Llama-3.1-70B on four H100 at full clock"
_NODE: Final = {
    "host_idle_w": "assumption: no H100 node's idle is published",
    "host_busy_w": "assumption, held to 8.4 kW at the wall with eight GPUs at 700 W (IEEE Access 13, 2025)",
    "fan_max_w": "assumption, held to the same figure",
    "off_w": "assumption: a board controller",
    "boot_s": "time until a model answers: DynamoLLM 6-8 min (arXiv 2408.00741)",
    "board_loss": "assumption: typical converters",
    "idle_bare_w": "loaded idle about 110 W, deep idle 35 W, a context 26-66 W (arXiv 2604.04745, 2605.23918)",
    "full_heat_w": "assumption: eight GPUs at 700 W and a busy host",
    "psu_rated_w": "assumption: of what shares the load; efficiency from the test points of 80 PLUS Titanium",
}
_ROOM: Final = "assumption; the PUE that comes out is held to 1.10 (Google, 2023) and 1.58 (Uptime survey, 2023)"
_INTERVALS: Final[dict[str, tuple[float, float]]] = {
    "boot_s": (360.0, 480.0),
    "board_loss": (0.02, 0.06),
    "idle_bare_w": (35.0, 90.0),
    "full_heat_w": (6500.0, 8000.0),
    "psu_rated_w": (8000.0, 13_200.0),
}
_THERMAL: Final[dict[str, tuple[tuple[float, float], str]]] = {
    "die_k_per_w": ((0.040, 0.069), "A100 temperatures: 0.063 with rmse 0.8 K, 0.040 in runs of 10-14 s"),
    "die_tau_s": ((0.09, 2.6), "the same recordings"),
    "sink_k_per_w": ((0.003, 0.032), "sum 0.072 K/W on an RTX PRO 6000 (28 points), less the die's"),
    "sink_tau_s": ((60.0, 300.0), "assumption: minutes; no public recording is long enough"),
    "inlet_c": ((18.0, 35.0), "assumption: the range that ASHRAE allows, middle taken"),
    "inlet_spread_c": ((0.0, 4.0), "assumption"),
    "slowdown_c": ((83.0, 90.0), "H100 SXM as NVML lists it"),
    "hw_slowdown_c": ((88.0, 95.0), "H100 SXM as NVML lists it"),
    "slowdown_per_k": ((0.01, 0.06), "assumption: how fast a driver gives up clock"),
    "hw_slowdown_x": ((0.4, 0.6), "assumption: about half the clock under hardware slowdown"),
}
_ACTUATION: Final[dict[str, tuple[tuple[float, float], str]]] = {
    "clock_delay_s": ((0.05, 0.2), "DynamoLLM 50-80 ms, throttLL'eM about 200 ms"),
    "limit_tau_s": ((0.5, 2.0), "a limit settles in about 3 s: three time constants"),
}


def table() -> dict[str, Any]:
    """Group -> parameter -> value, interval, source."""
    return {
        "about": "Parameters that no fit gives; written by `python -m models.twin.assumed`. Fitted: calibration.json.",
        "date": DATE,
        "serving_stack": _serving(),
        "node": _node(),
        "room": {name: _entry(value, None, _ROOM) for name, value in asdict(RoomParams()).items()},
        "heat": {name: _entry(getattr(ThermalParams(), name), span, why) for name, (span, why) in _THERMAL.items()},
        "actuation": {
            name: _entry(getattr(ActuationParams(), name), span, why) for name, (span, why) in _ACTUATION.items()
        },
    }


def _serving() -> dict[str, Any]:
    """Splits of power and loss of speed that full-clock data cannot tell apart: low, mid, high."""
    variants = [variant(kappa=one, clock_loss=one).stack for one in ("low", "mid", "high")]
    found = {}
    for name in ("static_w", "memory_w", "clock_w", "flop_w"):
        values = [getattr(one.device, name) for one in variants]
        found[name] = _entry(values[1], (min(values), max(values)), f"{MLENERGY}; three splits that fit it alike")
    for name in ("x0", "phi"):
        values = [getattr(one, name) for one in variants]
        found[name] = _entry(values[1], (min(values), max(values)), "cross-overs on an RTX PRO 6000 at 0.49-0.81")
    stack, device = LLAMA_70B_H100X4, LLAMA_70B_H100X4.device
    found["v_min"] = _entry(device.v_min, (0.70, 0.90), "V100 and A40 sweeps; other devices in calibration.json")
    found["x_knee"] = _entry(device.x_knee, (0.50, 0.83), "the same")
    found["bandwidth_share"] = _entry(stack.bandwidth_share, (0.55, 0.70), MLENERGY)
    found["flop_share"] = _entry(stack.flop_share, (0.36, 0.50), "two prefills of 70B on four H100: 0.44 and 0.49")
    found["idle_w"] = _entry(
        device.idle_w, (35.0, 90.0), "loaded idle about 110 W (arXiv 2604.04745), less the clock's"
    )
    found["idle_clock_w"] = _entry(device.idle_clock_w, (26.0, 66.0), "a context costs 26-66 W (arXiv 2605.23918)")
    return found


def _node() -> dict[str, Any]:
    low, mid, high = (asdict(one) for one in (LOW, MID, HIGH))
    found = {}
    for name, why in _NODE.items():
        span = _INTERVALS.get(name) or tuple(sorted((low[name], high[name])))
        found[name] = _entry(mid[name], (span[0], span[1]), why)
    return found


def _entry(value: float, span: tuple[float, float] | None, source: str) -> dict[str, Any]:
    return {"value": value, "interval": None if span is None else list(span), "source": source}


def text() -> str:
    """The data file."""
    return json.dumps(table(), indent=1) + "\n"


if __name__ == "__main__":
    print(text(), end="")
