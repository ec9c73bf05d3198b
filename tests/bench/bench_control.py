"""The protocol of docs/benchmarks/control.md: every part writes one JSON, the page is made of the parts that were run.

`python -m tests.bench.bench_control --out DIR [--parts main,kappa,...] [--seeds 5] [--days all] [--write PAGE]`. A part
whose file is there is not run again, so a run that was cut off goes on. Everything is simulated.

The page's own results lie beside it: `--out docs/benchmarks/control --parts "" --write docs/benchmarks/control.md`
makes it from them.
"""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from agents.cli.bench_inputs import workload
from models.bench.compare import Comparison, Setup, by_hour, cell, mean_of, report, truth_of, tuned_rivals
from models.bench.load import DAY_S, draw
from models.bench.protocol import ablations, b0, b1, perfect, slower, strategy
from models.bench.rivals import rivals
from models.bench.row import week
from models.bench.run import Case, run
from models.twin.weeks import WHOLE_WEEK
from tests.bench.control_page import page
from tests.bench.control_parts import keep_parts
from tests.bench.control_short import short_part
from tests.bench.control_wrong import BANDIT, first_minutes, wrong_cases

WEEKS = ("azure-code-2024", "azure-conv-2024")
OTHERS = ("azure-code-2023", "azure-conv-2023", "servegen-m-large", "servegen-m-small")
STRATEGIES = ("conservative", "balanced", "aggressive", "ml-driven")
DELAYS_S = ((0.1, 0.0), (0.5, 0.1), (1.5, 0.5), (5.0, 1.5), (40.0, 40.0))
DENSER = {
    "aggressive": ((0.80, 4.0), (0.88, 4.0), (0.88, 2.0), (0.96, 1.0), (1.04, 0.0)),
    "balanced": ((0.55, 1.5), (0.65, 1.5), (0.75, 1.0), (0.85, 0.0)),
}
STRESSED = ((0.85, 4.0), (0.90, 5.0), (0.95, 5.0), (0.95, 6.0), (1.00, 7.0))
PACE = 3.0
Json = dict[str, Any]


def setup(name: str, *, days: float | None, seeds: int, kappas: tuple[str, ...] = ("mid",)) -> Setup:
    """A shipped workload."""
    load = workload(
        Namespace(workload=name, requests=None, rates=None, lengths=None), kv_limit=truth_of("mid").kv_limit_tokens
    )
    return Setup(name, load.curve, load.stream, days, seeds if load.curve is not None else 1, kappas)


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main_part(name: str, args: Namespace) -> Json:
    """Strategies against both baselines and the reference."""
    found = setup(name, days=args.days, seeds=args.seeds)
    return report(
        found,
        STRATEGIES,
        shown="all",
        with_rivals=False,
        with_reference=("aggressive",) if args.reference else (),
        say=say,
    )


def rivals_part(name: str, args: Namespace) -> Json:
    found = setup(name, days=args.side_days, seeds=1)
    return report(found, STRATEGIES[:3], shown="rivals", with_rivals=True, with_reference=(), say=say)


def tune_part(name: str, args: Namespace) -> Json:
    """What `models.bench.rivals.CHOSEN` freezes; tuning days only."""
    return tuned_rivals(Comparison(setup(name, days=None, seeds=1), say))


def kappa_part(name: str, args: Namespace) -> Json:
    found = setup(name, days=args.side_days, seeds=1, kappas=("low", "mid", "high"))
    return report(found, STRATEGIES[:3], shown="all", with_rivals=False, with_reference=(), say=say)


def loss_part(name: str, args: Namespace) -> Json:
    """Loss of speed at low clocks (phi and x0) as the truth, the middle one believed; each against its own B0."""
    told: Json = {}
    for loss in ("low", "mid", "high"):
        only = setup(name, days=args.side_days, seeds=1, kappas=(f"mid/{loss}",))
        told[loss] = report(only, STRATEGIES[:3], shown="all", with_rivals=False, with_reference=(), say=say)["results"]
    return {f"{name}, phi and x0 {loss}": told[loss][name] for name in STRATEGIES[:3] for loss in told}


def other_part(name: str, args: Namespace) -> Json:
    found = setup(name, days=args.side_days, seeds=1)
    return report(found, ("balanced", "aggressive"), shown="all", with_rivals=False, with_reference=(), say=say)


def ablation_part(name: str, args: Namespace) -> Json:
    compare = Comparison(setup(name, days=args.side_days, seeds=1), say)
    found: Json = {}
    for strategy_name in ("balanced", "aggressive"):
        labels = [policy.name for policy in ablations(strategy_name, compare.base("mid"))]
        for k, label in enumerate(labels):
            policy = replace(
                ablations(strategy_name, compare.base("mid"))[k],
                name=f"{strategy_name} {label}" if k else strategy_name,
            )
            found[policy.name] = compare.row(lambda _, policy=policy: policy)  # type: ignore[misc]
    return found


def delay_part(name: str, args: Namespace) -> Json:
    """Aggressive at slower and slower loops; the controller knows its own delay."""
    compare = Comparison(setup(name, days=args.side_days, seeds=1), say)
    whole = strategy("aggressive", compare.base("mid"))
    found: Json = {}
    for tick_s, delay_s in DELAYS_S:
        policy = replace(whole, name=f"{tick_s:g} s + {delay_s:g} s", local=slower(whole.local, tick_s, delay_s))
        found[policy.name] = compare.row(lambda _, policy=policy: policy)  # type: ignore[misc]
    return found


def wrong_part(name: str, args: Namespace) -> Json:
    """The truth is not what the controller believes; the right model and the unshielded bandit beside it.

    All against B0 of that truth. The first minutes count from when the model began to be wrong.
    """
    compare = Comparison(setup(name, days=args.side_days, seeds=1), say)
    policy = strategy("aggressive", compare.base("mid"))
    bandit = next(one for one in rivals(name) if one.name == BANDIT)
    found: Json = {}
    for label, (wrong, right) in wrong_cases(compare.case("mid", 0)).items():
        say(label)
        zero, one = run(wrong, b0()), run(wrong, b1())
        runs = {"wrong": run(wrong, policy), "right": run(right, policy), "bandit": run(wrong, bandit)}
        from_minute = 0 if wrong.later is None else ceil(wrong.later[0] / 60.0)
        found[label] = {key: mean_of([cell(mine, zero, one, None)]) for key, mine in {"b0": zero, **runs}.items()}
        for key, mine in runs.items():
            found[label][key]["first"] = first_minutes(mine, runs["right"], zero, from_minute)
    return found


def week_part(name: str, args: Namespace) -> Json:
    """B0 and B1 on all seven days, tuning days included: neither of them is tuned.

    Published figures of scaling are of the whole week; what is judged are days 3 to 6.
    """
    compare = Comparison(setup(name, days=None, seeds=1), say)
    assert compare.setup.curve is not None
    curve = compare.setup.curve.scaled(compare.scale())
    stream = draw(curve, from_s=0.0, to_s=min(args.days or 7.0, 7.0) * DAY_S, seed=1000)
    case = Case(stream, compare.replicas(), truth_of("mid"), compare.belief, history=curve)
    zero, one = run(case, b0()), run(case, b1())
    return {
        "workload": name,
        "days": stream.seconds / DAY_S,
        "seeds": 1,
        "kappa": "mid",
        "quality": "simulated",
        WHOLE_WEEK: stream.seconds >= 7.0 * DAY_S - 1.0,
        "results": {},
        "baselines": {o.name: mean_of([cell(o, zero, one, None)]) for o in (zero, one)},
        "b1_wall_saving_by_day": [
            1.0 - float(one.wall_j[h : h + 24].sum() / zero.wall_j[h : h + 24].sum())
            for h in range(0, len(one.wall_j), 24)
        ],
    }


def stress_part(name: str, args: Namespace) -> Json:
    """How aggressive's packing was chosen: the tuning days at PACE times their speed, six seeds, a grid of packings."""
    compare = Comparison(setup(name, days=None, seeds=1), say)
    assert compare.setup.curve is not None
    whole = compare.setup.curve.scaled(compare.scale())
    curve = replace(whole, t_s=whole.t_s / PACE)
    policy = strategy("aggressive", compare.base("mid"))
    found: dict[str, list[Json]] = {}
    for seed in range(1, 7):
        stream = draw(curve, from_s=0.0, to_s=3.0 * DAY_S / PACE, seed=seed)
        case = Case(stream, compare.replicas(), truth_of("mid"), compare.belief, history=curve)
        zero, one = run(case, b0()), run(case, b1())
        for busy, z in STRESSED:
            packed = replace(policy, packing=replace(policy.packing, busy_upper=busy, z=z))
            found.setdefault(f"packed to {busy:.2f}, z {z:g}", []).append(cell(run(case, packed), zero, one, None))
    return {name: mean_of(cells) for name, cells in found.items()}


def budget_part(name: str, args: Namespace) -> Json:
    """30 % more replicas under one row's budget, the whole week."""
    return week(Comparison(setup(name, days=None, seeds=1), say), args.days or 7.0)


def hours_part(name: str, args: Namespace) -> Json:
    """One seed hour by hour: energy, percentiles and replicas of both baselines and ours."""
    compare = Comparison(setup(name, days=args.days, seeds=1), say)
    base = compare.base("mid")
    policies = [b0(), b1(), *(strategy(s, base) for s in STRATEGIES[:3])]
    return {policy.name: by_hour(compare.outcome(policy, "mid", 0)) for policy in policies}


def reference_part(name: str, args: Namespace) -> Json:
    """Perfect knowledge of the rate, packed more and more densely, and with less and less room above the rate.

    Room is the strategy's own `z` as a margin on the known rate (6 % each): what is left of it decides where packing
    does not.
    """
    compare = Comparison(setup(name, days=args.side_days, seeds=1), say)
    found: Json = {}
    for strategy_name, steps in DENSER.items():
        policy = strategy(strategy_name, compare.base("mid"))
        for busy, z in steps:
            best = perfect(replace(policy, packing=replace(policy.packing, z=z)), busy_upper=busy)
            best = replace(best, name=f"{strategy_name}, packed to {busy:.2f}, room {0.06 * z:.0%}")
            found[best.name] = compare.row(lambda _, best=best: best)  # type: ignore[misc]
    return found


PARTS: dict[str, tuple[tuple[str, ...], Callable[[str, Namespace], Json]]] = {
    "main": (WEEKS, main_part),
    "tune": (WEEKS, tune_part),
    "stress": (WEEKS[:1], stress_part),
    "rivals": (WEEKS, rivals_part),
    "ablation": (WEEKS, ablation_part),
    "other": (OTHERS, other_part),
    "kappa": (WEEKS, kappa_part),
    "loss": (WEEKS, loss_part),
    "delay": (WEEKS[:1], delay_part),
    "wrong": (WEEKS, wrong_part),
    "hours": (WEEKS, hours_part),
    "reference": (WEEKS, reference_part),
    "budget": (WEEKS[1:], budget_part),
    "week": (WEEKS, week_part),
    "short": (WEEKS, lambda name, args: short_part(Comparison(setup(name, days=None, seeds=1), say))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="the protocol of docs/benchmarks/control.md")
    parser.add_argument("--out", type=Path, default=Path("build/benchmark-control"))
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; PART:WORKLOAD for one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--days", type=lambda t: None if t == "all" else float(t), default=None)
    parser.add_argument("--side-days", type=lambda t: None if t == "all" else float(t), default=None)
    parser.add_argument("--no-reference", dest="reference", action="store_false")
    parser.add_argument("--write", type=Path, default=None)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for wanted in args.parts.split(",") if args.parts else ():
        part, _, only = wanted.partition(":")
        names, make = PARTS[part]
        for name in names:
            target = args.out / f"{part}.{name}.json"
            if target.exists() or (only and name != only):
                continue
            print(f"{part} {name}", file=sys.stderr, flush=True)
            target.write_text(json.dumps(make(name, args), indent=1) + "\n")
    if args.write is not None:
        page(args.out, args.write)
        keep_parts(args.out, args.write.parent / "control", tuple(PARTS))


if __name__ == "__main__":
    main()
