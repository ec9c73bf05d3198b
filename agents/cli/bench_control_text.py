"""What `eo bench control` says to a reader: a table of policies, and of energy against latency where asked for."""

from __future__ import annotations

from typing import Any, Final

from models.policy.extrapolation import deep
from models.policy.strategies import DEEPEST_SM_RATIO

MOST_MISSED: Final = 0.01  # the bounds are 99th percentiles


def warnings(found: dict[str, Any], *, seeds_asked: int) -> list[str]:
    """What a reader must know of the figures, a whole sentence each."""
    from models.bench.compare import LEAST_IN_HOUR, SLO_S

    said, b0 = [], found["baselines"]["b0"]
    if seeds_asked > found["seeds"]:
        said.append(
            f"--seeds {seeds_asked} was asked for and {found['seeds']} seed was run: a recording of requests is not "
            "drawn, so every seed would be the same"
        )
    if b0["missed_ratio"] is not None and b0["missed_ratio"] > MOST_MISSED:
        said.append(
            f"always-on default clocks themselves miss {b0['missed_ratio']:.1%} of the requests (bound "
            f"{MOST_MISSED:.0%}: first token in {SLO_S['ttft']:g} s, then {1e3 * SLO_S['tbt']:g} ms between tokens), "
            "so the bounds cannot be kept and default clocks are mostly kept; give shorter requests"
        )
    if not b0["hours"]:
        said.append(
            f"no hour had {LEAST_IN_HOUR} requests or more, so no hour could be judged and 0 of 0 are outside; give "
            "a longer or busier load"
        )
    return said


def table(found: dict[str, Any]) -> str:
    """The figures for a reader."""
    fleet = found["fleet"]
    lines = [
        f"{found['workload']}: {fleet['replicas']} replicas ({fleet['gpus']} GPUs), scale {fleet['scale']:g}, "
        f"{found['seeds']} seed(s), kappa {found['kappa']}. SIMULATED.",
        "",
        "| policy | GPU below b0 | wall below b0 | GPU below b1 | p99 first / between / end-to-end vs b0 "
        "| worst hour first, between (ms) | hours outside | missed | J/request |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {**{n: found["baselines"][n] for n in found["baselines"]}, **found["results"]}
    rows |= {rival["name"]: rival for rival in found["rivals"]}
    lines += [_line(name, row) for name, row in rows.items()]
    for name, row in found["results"].items():
        share = row["reference_share"]
        if share["gpu"] is not None:
            lines.append(
                f"{name}: {share['gpu']:.0%} (GPU) and {share['wall']:.0%} (wall) of the perfect-load reference."
            )
    if any(row["extrapolated_ratio"] for row in rows.values()):
        lines.append(
            f"EXTRAPOLATED: share of busy time below {DEEPEST_SM_RATIO:.0%} of the highest clock, where no published "
            "curve holds."
        )
    lines += _front(found.get("pareto", []))
    lines += [f"warning: {sentence}" for sentence in found["warnings"]]
    lines += [f"note: {count} x {name.replace('_', ' ')}" for name, count in found["notes"].items()]
    return "\n".join([*lines, f"CPU seconds: {found['seconds']:.0f}"])


def _front(points: list[dict[str, Any]]) -> list[str]:
    """Energy, cost and carbon of a request against latency; nothing without points."""
    if not points:
        return []
    lines = [
        "",
        "| policy | GPU, wall J/request | cost/request | g CO2e/request | p99 first / between / end-to-end (ms) "
        "| dominated by |",
        "|---|---|---|---|---|---|",
    ]
    for point in points:
        times = " / ".join(_number(point[f"p99_{m}_ms"]) for m in ("ttft", "tbt", "e2e"))
        lines.append(
            f"| {point['name']} | {_number(point['gpu_joules'])}, {_number(point['wall_joules'])} "
            f"| {_small(point['cost'])} | {_small(point['carbon_g'])} | {times} | {point['dominated_by'] or ''} |"
        )
    return [*lines, ""]


def _line(name: str, row: dict[str, Any]) -> str:
    change, worst = row["p99_change_ratio"], row["worst_hour"]
    name = " ".join(filter(None, (name, deep(row["extrapolated_ratio"]))))
    changes = " / ".join(_percent(change[m], "+.1%") for m in ("ttft", "tbt", "e2e"))
    return (
        f"| {name} | {_percent(row['gpu_saving_ratio']['b0'])} | {_percent(row['wall_saving_ratio']['b0'])} "
        f"| {_percent(row['gpu_saving_ratio']['b1'])} | {changes} | {_number(worst['p99_ttft_ms'])}, "
        f"{_number(worst['p99_tbt_ms'])} | {row['hours_outside_slo']} of {row['hours']} "
        f"| {_percent(row['missed_ratio'], '.3%')} | {_number(row['joules_per_request'])} |"
    )


def _percent(value: float | None, form: str = ".1%") -> str:
    return "unknown" if value is None else format(value, form)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"


def _small(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
