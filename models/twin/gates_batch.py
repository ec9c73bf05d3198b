"""Batch curves against measurements they were not fitted to: each stack's own, another model on it, and none of it.

Pure: curves come in, rows go out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.control.profiles import LLAMA_70B_H100X4
from models.twin.calibrated import Calibration
from models.twin.fit_stack import Batches, Physical, alternate, errors, fit_physical, fit_stacks
from models.twin.gates import Row, judged_row
from models.twin.measured import stacks
from models.twin.recordings import Recorded

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


def batch_curves(calibration: Calibration, curves: Sequence[Batches], *, bound: float | None = 0.06) -> list[Row]:
    """Each stack's own curve: every other batch fitted, the rest judged, spread learned from the other stacks."""
    times, watts = [], []
    for at, fold in enumerate(("even", "odd")):
        half = list(curves[1 - at :: 2])
        if not half:
            continue
        used = [alternate(len(one.running)) for one in half]
        parameters = fit_stacks(half, used, prior=calibration.stacks[fold])
        off = errors(half, parameters, [~rows for rows in used])
        times.append(off[0])
        watts.append(off[1])
    where = {
        "fitted_on": "every other batch of each stack; spread: the other stacks",
        "judged_on": "the batches between",
    }
    return [
        judged_row("batch -> time between tokens, per stack", np.concatenate(times), bound, **where),
        judged_row("batch -> power, per stack", np.concatenate(watts), bound, **where),
    ]


def published_stack(published: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Llama-3.1-70B on four H100 with the twin's own equations: every other batch, then another model on that stack."""
    points = _points(published["llama_70b_h100x4_batch"])
    used = alternate(len(points.running))
    where = {
        "fitted_on": f"batches {_numbers(points.running[used])}",
        "judged_on": f"batches {_numbers(points.running[~used])}",
    }
    time_off, power_off = _off(fit_physical(LLAMA_70B_H100X4, points, used), points, ~used)
    return [
        judged_row("70B on 4 H100: batch -> time between tokens", time_off, 0.06, **where),
        judged_row("70B on 4 H100: batch -> power", power_off, 0.06, **where),
        *_next_model(points, _points(published["llama33_70b_h100x4_batch"])),
        _prefill(published["prefill_70b_h100x4"]),
    ]


def _next_model(fitted: Batches, judged: Batches) -> list[Row]:
    """The same weights' shape, trained further: nothing of it is fitted."""
    everything = np.ones(len(fitted.running), dtype=np.bool_)
    found = fit_physical(LLAMA_70B_H100X4, fitted, everything)
    time_off, power_off = _off(found, judged, np.ones(len(judged.running), dtype=np.bool_))
    where = {
        "fitted_on": "Llama-3.1-70B on four H100, all its batches",
        "judged_on": f"Llama-3.3-70B on four H100, batches {_numbers(judged.running)}",
    }
    return [
        judged_row("Llama-3.3 on the same stack: batch -> time between tokens", time_off, 0.06, **where),
        judged_row("Llama-3.3 on the same stack: batch -> power", power_off, 0.06, **where),
    ]


def _points(raw: Mapping[str, Any]) -> Batches:
    running, time_ms, watts = (np.array(raw[key], dtype=np.float64) for key in ("running", "itl_ms", "gpu_w"))
    return Batches("70B", "H100", "70B", running, time_ms / 1e3, watts)


def _off(found: Physical, points: Batches, rows: Bools) -> tuple[Array, Array]:
    seconds, power = found.at(points.running[rows])
    return seconds / points.time_s[rows] - 1.0, power / points.watts[rows] - 1.0


def _numbers(values: Array) -> str:
    return ", ".join(f"{one:.0f}" for one in values)


def _prefill(raw: Mapping[str, Any]) -> Row:
    first, second = (_prefill_share(tokens, spent) for tokens, spent in zip(raw["tokens"], raw["seconds"], strict=True))
    return judged_row(
        "70B on 4 H100: prefill seconds",
        np.array([second / first - 1.0]),
        None,
        fitted_on="2,083 prompt tokens",
        judged_on="4,166 prompt tokens",
        note="less than proportional: a fixed part of about 30 ms is not in the equations",
    )


def _prefill_share(tokens: float, seconds: float) -> float:
    """Share of the peak rate that a prefill reached."""
    stack = LLAMA_70B_H100X4
    return stack.flop_per_token * tokens / (stack.device.flop_s * seconds)


def other_stacks(calibration: Calibration, recorded: Sequence[Recorded], *, label: str) -> list[Row]:
    """Batch curves that the package has never seen, with the spread of all shipped ones."""
    curves = stacks(recorded)
    if not curves:
        return []
    used = [alternate(len(one.running)) for one in curves]
    off = errors(curves, fit_stacks(curves, used, prior=calibration.stacks["all"]), [~rows for rows in used])
    where = {"fitted_on": "every other batch of each stack; spread: shipped stacks", "judged_on": "the batches between"}
    names = ("time between tokens", "power")
    return [judged_row(f"{label}: batch -> {name}", one, 0.06, **where) for name, one in zip(names, off, strict=True)]


def across_models(curves: Sequence[Batches]) -> list[Row]:
    """One model left out, predicted by the typical stack of its device: set points do not transfer."""
    times, watts = [], []
    for one in curves:
        others = [other for other in curves if other.model != one.model and other.device == one.device]
        if len(others) < 3:
            continue
        everything = [np.ones(len(other.running), dtype=np.bool_) for other in others]
        typical = np.median(fit_stacks(others, everything), axis=0)[None, :]
        off = errors([one], typical, [np.ones(len(one.running), dtype=np.bool_)])
        times.append(off[0])
        watts.append(off[1])
    where = {"fitted_on": "all other models on the same GPU", "judged_on": "every batch of the model left out"}
    note = "set points do not transfer between models: calibrate each stack"
    return [
        judged_row("across models: batch -> time between tokens", np.concatenate(times), None, note=note, **where),
        judged_row("across models: batch -> power", np.concatenate(watts), None, note=note, **where),
    ]
