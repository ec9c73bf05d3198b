"""What the control bench measured in simulated weeks, for the gates that need whole weeks.

It takes the results as the bench writes them (`eo bench control --json`, and the parts of the protocol: main, rivals,
ablation, kappa, week), whatever their file names, and finds the figures of three claims. It must not run anything, nor
fill in what was not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

SERVICES: Final = {"azure-code-2024": "code", "azure-conv-2024": "conversation"}
STRATEGY: Final = "aggressive"  # the one with the absolute bound that the published figures refer to
CLOCKS_ONLY: Final = f"{STRATEGY} without replicas"
LEAST_HOURS: Final = 20.0  # of judged time: a day, its quiet hours left out
MOST_MISSED: Final = 0.01  # of the requests of the week: a p99 that keeps the SLO
WHOLE_WEEK: Final = "whole_week"  # in a file that begins with the tuning days: whether it holds all seven
ALL_KNOBS, POWER_OFF, CLOCK_ONLY = "all_knobs_inside_slo", "power_off_azure_week", "clock_only_inside_slo"


class NoResult(ValueError):
    """A file is no result of the control bench; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Week:
    """Relative change of energy by service (-0.5 = half is saved), and how it was measured."""

    change: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Figure:
    """A policy on one service."""

    row: Mapping[str, Any]
    hours: float  # judged, over all seeds
    seeds: int | None

    def how(self) -> str:
        """How much was simulated, in words."""
        seeds = "" if self.seeds is None else f", {self.seeds} seed{'s' if self.seeds != 1 else ''}"
        return f"{self.hours:g} judged hours{seeds}"


def collected(files: Mapping[str, Any]) -> dict[str, Week]:
    """Claim -> week, from the parsed files by name; a claim that no file holds is left out.

    Where several files hold the same policy on the same service the one with most judged hours counts; less than a day
    of them is no week.
    """
    main: dict[tuple[str, str], _Figure] = {}
    weeks: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}
    for name, value in sorted(files.items()):
        workload = _workload(name, value)
        if workload not in SERVICES:
            continue
        seeds = value.get("seeds")
        for policy, row in _policies(name, value):
            if WHOLE_WEEK in value:  # tuning days lie in it: only for what is tuned on nothing
                if value[WHOLE_WEEK] and policy == "b1" and row["wall_saving_ratio"]["b0"] is not None:
                    weeks[SERVICES[workload]] = -float(row["wall_saving_ratio"]["b0"])
                continue
            figure = _Figure(row, float(row.get("hours") or 0.0), seeds if isinstance(seeds, int) else None)
            key = (SERVICES[workload], policy)
            if figure.hours >= LEAST_HOURS and (key not in main or main[key].hours < figure.hours):
                main[key] = figure
            span = row.get("saving_interval") or {}
            if policy == STRATEGY and span.get("over") == "kappa" and span.get("gpu"):
                spans[SERVICES[workload]] = (-float(span["gpu"][1]), -float(span["gpu"][0]))
    found = {
        ALL_KNOBS: _week(main, STRATEGY, "gpu_saving_ratio", spans),
        POWER_OFF: _with_weeks(_week(main, "b1", "wall_saving_ratio", {}), weeks),
        CLOCK_ONLY: _week(main, CLOCKS_ONLY, "gpu_saving_ratio", {}),
    }
    return {claim: week for claim, week in found.items() if week is not None}


def _with_weeks(judged: Week | None, weeks: Mapping[str, float]) -> Week | None:
    """All seven days in place of the judged ones, where they were run: what is published is of the whole week, and
    scaling at default clocks is tuned on none of its days. The judged days' figure stays in the note."""
    if not weeks:
        return judged
    change = {**({} if judged is None else judged.change), **weeks}
    days = ", ".join(f"{service} {value:+.2%}" for service, value in judged.change.items()) if judged else "not run"
    note = "all seven days, one seed, nothing tuned: " + ", ".join(sorted(weeks))
    return Week(dict(sorted(change.items())), f"{note}; days 3 to 6 alone: {days}")


def _week(
    main: Mapping[tuple[str, str], _Figure],
    policy: str,
    key: str,
    spans: Mapping[str, tuple[float, float]],
) -> Week | None:
    change: dict[str, float] = {}
    notes: list[str] = []
    for service in sorted(SERVICES.values()):
        if (service, policy) not in main:
            continue
        figure = main[(service, policy)]
        saving = figure.row[key]["b0"]
        if saving is None:
            continue
        missed, outside = figure.row.get("missed_ratio"), figure.row.get("hours_outside_slo")
        if missed is not None and missed > MOST_MISSED:
            notes.append(f"{service} left out: {missed:.1%} of its requests missed the SLO")
            continue
        change[service] = -float(saving)
        notes.append(_note(service, figure, outside, spans.get(service)))
    return Week(change, "; ".join(notes)) if change else None


def _note(service: str, figure: _Figure, outside: Any, span: tuple[float, float] | None) -> str:
    text = f"{service}: {figure.how()}"
    if outside:
        text += f", outside the SLO in {outside:g} of them"
    if span is not None:
        text += f", kappa {span[0]:+.1%} to {span[1]:+.1%}"
    return text


def _workload(name: str, value: Any) -> str:
    """Of the result, or of the part's file name (`ablation.azure-code-2024.json` holds policies only)."""
    if not isinstance(value, Mapping):
        raise NoResult(f"{name} is no result of `eo bench control`: it holds no object at its top")
    if "workload" in value:
        return str(value["workload"])
    return next((one for one in SERVICES if one in name), "")


def _policies(name: str, value: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Every policy's row in a file of whatever part."""
    groups = [value.get("results"), value.get("baselines")] if "workload" in value else [value]
    if "workload" in value and isinstance(value.get("result"), Mapping):
        groups.append({str(value.get("strategy")): value["result"]})
    found = [(policy, row) for group in groups if isinstance(group, Mapping) for policy, row in group.items()]
    rows = [(policy, row) for policy, row in found if isinstance(row, Mapping) and _whole(row)]
    if "workload" in value and not rows:
        raise NoResult(f"{name} is no result of `eo bench control`: it names a workload and holds no policy's savings")
    return rows


def _whole(row: Mapping[str, Any]) -> bool:
    return all(
        isinstance(row.get(key), Mapping) and "b0" in row[key] for key in ("gpu_saving_ratio", "wall_saving_ratio")
    )
