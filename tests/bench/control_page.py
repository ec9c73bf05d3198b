"""Makes docs/benchmarks/control.md and its plots from the JSON of the parts that were run. Measures nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.policy.extrapolation import deep
from tests.bench.control_plots import draw
from tests.bench.control_short import short_lines

Json = dict[str, Any]
TITLES = {"azure-code-2024": "code", "azure-conv-2024": "conversation"}
HEAD = (
    "| policy | GPU below B0 | wall below B0 | GPU below B1 | p99 first / between / end-to-end against B0 "
    "| worst hour: first, between | hours outside the SLO | missed | J/request | replicas, clock |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
TARGETS = (
    # strategy, workload, what, path, at least
    ("aggressive", "azure-code-2024", "GPU below B0", ("gpu_saving_ratio", "b0"), 0.60),
    ("aggressive", "azure-code-2024", "wall below B0", ("wall_saving_ratio", "b0"), 0.57),
    ("aggressive", "azure-code-2024", "GPU below B1", ("gpu_saving_ratio", "b1"), 0.40),
    ("aggressive", "azure-code-2024", "share of the reference, GPU", ("reference_share", "gpu"), 0.95),
    ("aggressive", "azure-code-2024", "share of the reference, wall", ("reference_share", "wall"), 0.92),
    ("aggressive", "azure-conv-2024", "GPU below B0", ("gpu_saving_ratio", "b0"), 0.60),
    ("aggressive", "azure-conv-2024", "wall below B0", ("wall_saving_ratio", "b0"), 0.57),
    ("aggressive", "azure-conv-2024", "GPU below B1", ("gpu_saving_ratio", "b1"), 0.40),
    ("aggressive", "azure-conv-2024", "share of the reference, GPU", ("reference_share", "gpu"), 0.95),
    ("aggressive", "azure-conv-2024", "share of the reference, wall", ("reference_share", "wall"), 0.92),
    ("balanced", "azure-code-2024", "GPU below B0", ("gpu_saving_ratio", "b0"), 0.33),
    ("balanced", "azure-code-2024", "wall below B0", ("wall_saving_ratio", "b0"), 0.42),
    ("balanced", "azure-conv-2024", "GPU below B0", ("gpu_saving_ratio", "b0"), 0.27),
    ("conservative", "azure-code-2024", "GPU below B0", ("gpu_saving_ratio", "b0"), 0.28),
    ("conservative", "azure-conv-2024", "GPU below B0", ("gpu_saving_ratio", "b0"), 0.16),
)
NO_LATER = 0.01  # a percentile this much later still counts as the same
BOUNDS = {"balanced": (0.05, 0.05, 0.10), "ml-driven": (0.05, 0.05, 0.10), "conservative": (0.05, 0.05, 0.05)}


def page(folder: Path, target: Path) -> None:
    """Replaces what lies between the marks of the page; the words around it are written by people."""
    text = target.read_text()
    before, _, rest = text.partition("<!-- figures: begin -->")
    _, _, after = rest.partition("<!-- figures: end -->")
    plots = target.parent / "control"
    plots.mkdir(exist_ok=True)
    body = "\n".join(sections(folder, plots))
    target.write_text(f"{before}<!-- figures: begin -->\n{body}\n<!-- figures: end -->{after}")


def parts(folder: Path, name: str) -> dict[str, Json]:
    """Workload -> result of a part, as far as it was run."""
    found = {}
    for path in sorted(folder.glob(f"{name}.*.json")):
        found[path.name.removeprefix(f"{name}.").removesuffix(".json")] = json.loads(path.read_text())
    return found


def sections(folder: Path, plots: Path) -> list[str]:
    """All tables, in the order of the page."""
    main = parts(folder, "main")
    lines = targets(main)
    for name, found in main.items():
        lines += ["", f"### {name}: strategies", *_setting(found), "", HEAD]
        lines += [row(n, found["baselines"][n]) for n in found["baselines"]]
        lines += [row(n, r) for n, r in found["results"].items()]
        lines += _hosts(name, found)
    for name, found in parts(folder, "rivals").items():
        lines += ["", f"### {name}: rivals", *_setting(found), "", HEAD]
        lines += [row(n, r) for n, r in {**found["baselines"], **found["results"]}.items()]
        lines += [row(r["name"], r) for r in found["rivals"]] + _beside(name, found["rivals"])
        lines += _hosts(name, found)
    for title, part in (
        ("ablation", "ablation"),
        ("speed lost at low clocks, phi and x0", "loss"),
        ("loop delay", "delay"),
        ("perfect load, packed", "reference"),
        ("tuning days at three times their pace, six seeds", "stress"),
    ):
        for name, found in parts(folder, part).items():
            lines += ["", f"### {name}: {title}", "", HEAD, *(row(n, r) for n, r in found.items())]
    for name, found in parts(folder, "other").items():
        lines += ["", f"### {name}: nothing retuned", *_setting(found), "", HEAD]
        lines += [row(n, r) for n, r in {**found["baselines"], **found["results"]}.items()]
    lines += _kappa(parts(folder, "kappa")) + _wrong(parts(folder, "wrong")) + _budget(parts(folder, "budget"))
    lines += _week(parts(folder, "week")) + short_lines(parts(folder, "short"), BOUNDS)
    return lines + draw(parts, folder, plots)


def targets(main: dict[str, Json]) -> list[str]:
    """Each aim beside what was seen; a missed one says so."""
    lines = [
        "",
        "### Aims and what was seen",
        "",
        "| strategy | service | what | aim | seen | |",
        "|---|---|---|---|---|---|",
    ]
    for name, workload, what, (group, key), least in TARGETS:
        result = main.get(workload, {}).get("results", {}).get(name)
        value = None if result is None else result[group][key]
        seen = "not run" if value is None else f"{value:.1%}"
        word = "" if value is None else ("reached" if value >= least else "**missed**")
        lines.append(f"| {name} | {TITLES[workload]} | {what} | {least:.0%} | {seen} | {word} |")
    for workload, found in main.items():
        for name, result in found["results"].items():
            lines.append(_bound(name, TITLES.get(workload, workload), result))
    return lines


def _bound(name: str, service: str, result: Json) -> str:
    if name not in BOUNDS:
        outside, hours = result["hours_outside_slo"], result["hours"]
        word = "reached" if outside == 0 else "**missed**"
        return f"| {name} | {service} | every hour inside 2 s and 100 ms | 0 outside | {outside} of {hours} | {word} |"
    change = [result["p99_change_ratio"][m] for m in ("ttft", "tbt", "e2e")]
    aim = " / ".join(f"+{b:.0%}" for b in BOUNDS[name])
    kept = all(c <= b for c, b in zip(change, BOUNDS[name], strict=True))
    seen = " / ".join(f"{c:+.1%}" for c in change)
    word = "reached" if kept else "**missed**"
    return f"| {name} | {service} | p99 first / between / end-to-end | {aim} | {seen} | {word} |"


def _setting(found: Json) -> list[str]:
    fleet = found["fleet"]
    return [
        "",
        f"{fleet['replicas']} replicas ({fleet['gpus']} GPUs), load x{fleet['scale']:g}, days: {found['days']}, "
        f"seeds: {found['seeds']}, kappa {found['kappa']}; {found['seconds']:.0f} s of CPU. Simulated.",
    ]


def row(name: str, r: Json) -> str:
    """One policy."""
    worst, change = r["worst_hour"], r["p99_change_ratio"]
    changes = " / ".join(_ratio(change[m], "+.1%") for m in ("ttft", "tbt", "e2e"))
    beyond = deep(r.get("extrapolated_ratio"))
    name = f"{name}, {beyond}" if beyond else name
    return (
        f"| {name} | {_ratio(r['gpu_saving_ratio']['b0'])} | {_ratio(r['wall_saving_ratio']['b0'])} "
        f"| {_ratio(r['gpu_saving_ratio']['b1'])} | {changes} "
        f"| {_whole(worst['p99_ttft_ms'])} ms, {_whole(worst['p99_tbt_ms'])} ms "
        f"| {r['hours_outside_slo']} of {r['hours']} | {_ratio(r['missed_ratio'], '.3%')} "
        f"| {_whole(r['joules_per_request'])} | {_ratio(r['mean_replicas'], '.1f')}, {r['mean_clock_ratio']:.2f} |"
    )


def _beside(workload: str, rivals: list[Json]) -> list[str]:
    """Each rival, and ours with that rival's own percentiles as its bounds."""
    lines = ["", f"### {workload}: ours at each rival's own latency", ""]
    lines += [
        "| rival | GPU, wall below B0: it | ours | p99 first / between / end-to-end: it | ours | less, no later |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for r in rivals:
        ours = r["ours"]
        late = [ours["p99_ms"][m] / r["p99_ms"][m] - 1.0 for m in ("ttft", "tbt", "e2e")]
        saves = ours["wall_joules_per_request"] < r["wall_joules_per_request"]
        saves_gpu = ours["joules_per_request"] < r["joules_per_request"]
        word = "yes" if saves and saves_gpu and max(late) <= NO_LATER else "**no**"
        lines.append(f"| {r['name']} | {_saved(r)} | {_saved(ours)} | {_times(r)} | {_times(ours)} | {word} |")
    return lines


def _saved(r: Json) -> str:
    return f"{_ratio(r['gpu_saving_ratio']['b0'])}, {_ratio(r['wall_saving_ratio']['b0'])}"


def _times(r: Json) -> str:
    return " / ".join(f"{r['p99_ms'][m]:.0f}" for m in ("ttft", "tbt", "e2e")) + " ms"


def _budget(found: dict[str, Json]) -> list[str]:
    lines: list[str] = []
    for name, result in found.items():
        first = next(iter(result.values()))
        lines += [
            "",
            f"### {name}: 30 % more replicas on the same row",
            "",
            f"Budget {first['budget_w'] / 1e3:.1f} kW at the wall, {first['days']:g} days, one-second windows.",
            "",
            "| variant | windows over | highest | low priority touched | p99 first / between / end-to-end | missed |",
            "|---|---|---|---|---|---|",
        ]
        for label, r in result.items():
            touched = "no classes" if r["low_touched_ratio"] is None else _ratio(r["low_touched_ratio"], ".2%")
            lines.append(
                f"| {label} | {r['windows_over']} | {r['peak_wall_w'] / 1e3:.1f} kW | {touched} "
                f"| {_times(r)} | {_ratio(r['missed_ratio'], '.3%')} |"
            )
    return lines


def _week(found: dict[str, Json]) -> list[str]:
    """B1 on all seven days, day by day."""
    lines: list[str] = []
    for name, result in found.items():
        one = result["baselines"]["b1"]
        each = [_ratio(value) for value in result["b1_wall_saving_by_day"]]
        lines += [
            "",
            f"### {name}: B1 on all days, tuning days included",
            "",
            f"{result['days']:g} days, one seed: GPU {_ratio(one['gpu_saving_ratio']['b0'])}, wall "
            f"{_ratio(one['wall_saving_ratio']['b0'])} below B0. By day from day 0, at the wall: {', '.join(each)}. "
            "Days 3 to 6 are those that are judged.",
        ]
    return lines


def _kappa(found: dict[str, Json]) -> list[str]:
    lines: list[str] = []
    for name, result in found.items():
        lines += [
            "",
            f"### {name}: what is not known of the device",
            "",
            "| strategy | GPU below B0, kappa low to high | wall |",
        ]
        lines += ["|---|---|---|"]
        for strategy, r in result["results"].items():
            span = r["saving_interval"]
            low, high = span["gpu"], span["wall"]
            lines.append(f"| {strategy} | {low[0]:.1%} to {low[1]:.1%} | {high[0]:.1%} to {high[1]:.1%} |")
    return lines


def _wrong(found: dict[str, Json]) -> list[str]:
    """Each truth with three controllers; what an older file does not hold is unknown."""
    lines: list[str] = []
    for name, result in found.items():
        lines += ["", f"### {name}: a wrong model, aggressive", ""]
        lines += [
            "Extra misses are points beyond the right model's. *Near*: from which minute on, to the end of the first "
            "hour, the saving of the last ten minutes is at most 3 points below the right model's (10 is the first "
            "that can be). The half hour and the hour count from when the model began to be wrong.",
            "",
            "| truth | controller | missed | extra misses: first half hour, whole "
            "| GPU below B0: first half hour, whole | near | worst hour first, between |",
            "|---|---|---|---|---|---|---|",
        ]
        for label, r in result.items():
            lines.append(_controller(label, "B0", r["b0"], None))
            for key, word in (("wrong", "wrong model"), ("right", "right model"), ("bandit", "unshielded bandit")):
                if key in r:
                    lines.append(_controller(label, word, r[key], r["right"]))
    return lines


def _controller(truth: str, word: str, r: Json, right: Json | None) -> str:
    """One controller under one truth; `right` None: a baseline, which has nothing beside it."""
    worst = r["worst_hour"]
    cells = [truth, word, _ratio(r["missed_ratio"], ".3%")]
    if right is None:
        cells += ["", "", ""]
    else:
        first = r.get("first") or {}
        whole = (
            None if None in (r["missed_ratio"], right["missed_ratio"]) else r["missed_ratio"] - right["missed_ratio"]
        )
        cells.append(f"{_points(first.get('extra_missed_ratio'))}, {_points(whole)}")
        cells.append(f"{_ratio(first.get('gpu_saving_ratio'))}, {_ratio(r['gpu_saving_ratio']['b0'])}")
        near = first.get("near_after_minutes")
        cells.append("unknown" if not first else "not in the first hour" if near is None else f"{near:.0f} min")
    return "| " + " | ".join([*cells, f"{_whole(worst['p99_ttft_ms'])} ms, {_whole(worst['p99_tbt_ms'])} ms"]) + " |"


def _points(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:+.3f}"


def _hosts(name: str, found: Json) -> list[str]:
    """The wall by the rule and with hosts that follow their GPUs; left out where a file is older than that figure."""
    rows = {**found["baselines"], **found["results"], **{r["name"]: r for r in found["rivals"]}}
    rows = {label: r for label, r in rows.items() if "wall_saving_resting_host_ratio" in r}
    if not rows:
        return []
    lines = ["", f"### {name}: hosts that follow their GPUs", ""]
    lines += [
        "| policy | wall below B0: 1.5 kW a live host (the rule) | host follows its GPUs: middle, low to high "
        "| wall below B1: rule, follows | busy share of live hosts |",
        "|---|---|---|---|---|",
    ]
    for label, r in rows.items():
        rule, rests = r["wall_saving_ratio"], r["wall_saving_resting_host_ratio"]
        variants = r["wall_saving_resting_host_b0_ratio"]
        lines.append(
            f"| {label} | {_ratio(rule['b0'])} | {_ratio(rests['b0'])}, {_ratio(variants['low'])} to "
            f"{_ratio(variants['high'])} | {_ratio(rule['b1'])}, {_ratio(rests['b1'])} "
            f"| {_ratio(r['host_busy_ratio'], '.0%')} |"
        )
    return lines


def _ratio(value: float | None, form: str = ".1%") -> str:
    return "unknown" if value is None else format(value, form)


def _whole(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"
