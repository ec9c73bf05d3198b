"""Fitted parameters as values and as the text of their data file, with source, date and interval.

A device is fitted three times: on every other workload (`even`), on the rest (`odd`) and on `all`. The halves judge
each other; `all` is for use, and the interval of a parameter is what the three fits span.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np

from models.twin.fit_jobs import GENERIC_LAW, WIDE, DeviceFit
from models.twin.fitting import Prior
from models.twin.job import JobLaw

FOLDS: Final = ("even", "odd", "all")


@dataclass(frozen=True, slots=True)
class Calibration:
    """devices: "<device>/<knob>" -> fold -> fit; stacks: fold -> spread of batch curves; constants: named numbers."""

    date: str
    devices: Mapping[str, Mapping[str, DeviceFit]]
    stacks: Mapping[str, Prior]
    constants: Mapping[str, Mapping[str, Any]]

    def device(self, device: str, knob: str, fold: str = "all") -> DeviceFit | None:
        """The fit of a device under a knob; None when it was never fitted."""
        folds = self.devices.get(f"{device}/{knob}")
        return None if folds is None else folds[fold]

    def typical(self, knob: str) -> DeviceFit:
        """For a device never seen: a generic law, and the pooled spread of the jobs of those that were."""
        priors = [folds["all"].prior for key, folds in self.devices.items() if key.endswith(knob)]
        if not priors:
            return DeviceFit(GENERIC_LAW, WIDE)
        mean = np.mean([one.mean for one in priors], axis=0)
        between = np.cov(np.array([one.mean for one in priors]).T) if len(priors) > 1 else 0.0
        within = np.mean([one.covariance for one in priors], axis=0)
        return DeviceFit(GENERIC_LAW, Prior(mean, within + between))


def shipped() -> Calibration:
    """The fits that come with the package."""
    return parse(files("models.twin").joinpath("data/calibration.json").read_text())


def published() -> dict[str, dict[str, Any]]:
    """Measured points taken from papers and benchmark pages, each with its source."""
    found: dict[str, dict[str, Any]] = json.loads(files("models.twin").joinpath("data/published.json").read_text())
    return found


def parse(text: str) -> Calibration:
    """The reverse of `dump`."""
    raw = json.loads(text)
    devices = {
        key: {fold: DeviceFit(JobLaw(**one[fold]["law"]), _prior(one[fold]["jobs"])) for fold in FOLDS}
        for key, one in raw["devices"].items()
    }
    stacks = {fold: _prior(one) for fold, one in raw["stacks"].items()}
    return Calibration(raw["date"], devices, stacks, raw["constants"])


def dump(calibration: Calibration, sources: Mapping[str, str]) -> str:
    """The data file's text; `sources` names for each device where its sweeps come from."""
    devices = {
        key: {
            "source": sources.get(key, "unknown"),
            "interval": intervals([folds[fold].law for fold in FOLDS]),
            **{fold: {"law": _rounded(asdict(folds[fold].law)), "jobs": _plain(folds[fold].prior)} for fold in FOLDS},
        }
        for key, folds in sorted(calibration.devices.items())
    }
    raw = {
        "about": "Fitted by `eo bench twin --refit`; do not edit. Intervals: what three fits (halves, all) span.",
        "date": calibration.date,
        "devices": devices,
        "stacks_source": sources.get("stacks", "unknown"),
        "stacks": {fold: _plain(prior) for fold, prior in calibration.stacks.items()},
        "constants": calibration.constants,
    }
    return json.dumps(raw, indent=1) + "\n"


def intervals(laws: Sequence[JobLaw]) -> dict[str, list[float]]:
    """Lowest and highest of each parameter over several fits."""
    rows = [asdict(law) for law in laws]
    return {
        name: [round(min(row[name] for row in rows), 4), round(max(row[name] for row in rows), 4)] for name in rows[0]
    }


def _plain(prior: Prior) -> dict[str, Any]:
    return {"mean": np.round(prior.mean, 4).tolist(), "covariance": np.round(prior.covariance, 5).tolist()}


def _prior(raw: Mapping[str, Any]) -> Prior:
    return Prior(np.array(raw["mean"]), np.array(raw["covariance"]))


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
