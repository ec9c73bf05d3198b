"""Puts values back with nothing else alive: no capper, no agent, no Kafka. Needs the save file and the device only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agents.capper import savefile
from agents.capper.actuators.base import Actuator, Knob
from agents.capper.actuators.errors import ActuatorError
from agents.capper.errors import CapperError
from agents.capper.folder_lock import FolderLock
from agents.capper.holdings import Holdings
from agents.capper.knob import Knob as GpuKnob
from agents.capper.knob import PutBack

STEP_S: Final = 0.5  # between two looks at devices that need seconds


@dataclass(frozen=True, slots=True)
class Restored:
    """One knob of one GPU: what it said, what it says now, watts or MHz; None = no lock, or unknown after a failure."""

    uuid: str
    knob: Knob
    before: float | None
    after: float | None
    previous: float | None
    state: Literal["restored", "failed", "planned"]
    problem: str = ""


def restore(
    folder: Path,
    power: Actuator | None,
    clock: Actuator | None,
    *,
    dry_run: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Restored]:
    """Puts back everything that the folder's save file holds; what fails stays in the file.

    Raises:
        FolderHeld: a live capper holds the folder: ask it instead.
        CapperError: the save file cannot be read or trusted, or was written by other actuators than these.
    """
    saved = savefile.load(folder)
    if saved is None or saved.empty:
        return []
    lock = FolderLock(folder)
    if not dry_run:
        lock.acquire()
    try:
        holdings = Holdings(
            folder=folder, cluster=saved.cluster, node=saved.node, capper_id="", power=power, clock=clock, sleep=sleep
        )
        holdings.load()
        knobs = [knob for gpu in holdings.gpus.values() for knob in gpu.knobs if knob.claim is not None]
        if dry_run:
            return [_planned(knob) for knob in knobs]
        done = _put_back_all(knobs, sleep)
        holdings.sync()
        return done
    except ActuatorError as error:
        raise CapperError(
            f"the GPUs of node {saved.node} cannot be listed: {error}; try again when they can"
        ) from error
    except OSError as error:
        path = folder / savefile.FILE_NAME
        raise CapperError(
            f"{path} cannot be written ({error.strerror}); the values themselves were put back"
        ) from error
    finally:
        lock.release()


def _previous(knob: GpuKnob) -> float | None:
    return knob.claim.saved.previous if knob.claim else None


def _planned(knob: GpuKnob) -> Restored:
    try:
        before, problem = knob.read(), ""
    except ActuatorError as error:
        before, problem = None, str(error)
    previous = _previous(knob)
    return Restored(knob.uuid, knob.actuator.knob, before, before, previous, "planned", problem)


def _put_back_all(knobs: list[GpuKnob], sleep: Callable[[float], None]) -> list[Restored]:
    """All at once: slow devices are told first and then waited for together."""
    previous = [_previous(knob) for knob in knobs]
    results = [knob.put_back(0.0) for knob in knobs]
    waited = 0.0
    while any(result.state == "pending" for result in results):
        sleep(STEP_S)
        waited += STEP_S
        results = [
            knob.put_back(waited) if result.state == "pending" else result
            for knob, result in zip(knobs, results, strict=True)
        ]
    return [_restored(*item) for item in zip(knobs, previous, results, strict=True)]


def _restored(knob: GpuKnob, previous: float | None, result: PutBack) -> Restored:
    state: Literal["restored", "failed"] = "failed" if result.state == "failed" else "restored"
    return Restored(knob.uuid, knob.actuator.knob, result.before, result.after, previous, state, result.problem)
