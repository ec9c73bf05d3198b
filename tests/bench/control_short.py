"""Recordings of half an hour to eight hours, cut from the tuning days: does a bound hold that soon after the start?

Each is run as `eo bench control --requests FILE` runs a file: its own fleet, B0 of the recording as reference, nothing
known of the days before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from models.bench.compare import Comparison, Setup
from models.bench.load import DAY_S, draw
from models.bench.protocol import strategy

Json = dict[str, Any]
DAYS: Final = {"azure-code-2024": 0, "azure-conv-2024": 2}  # the busiest of days 0-2
CUTS: Final = (  # hour of the day, hours
    *((2.0, 0.5), (8.0, 0.5), (14.0, 0.5), (20.0, 0.5)),
    *((4.0, 2.0), (10.0, 2.0), (14.0, 2.0), (19.0, 2.0)),
    (9.0, 8.0),
)
STRATEGIES: Final = ("conservative", "balanced")
HEAD: Final = (
    "| day, from, hours | replicas | strategy | GPU, wall below B0 | p99 first / between / end-to-end against B0 | |\n"
    "|---|---|---|---|---|---|"
)


def short_part(whole: Comparison) -> Json:
    """Label -> strategy -> result, with the fleet's replicas."""
    name = whole.setup.name
    assert whole.setup.curve is not None
    curve = whole.setup.curve.scaled(whole.scale())
    found: Json = {}
    for hour, hours in CUTS:
        begin = DAYS[name] * DAY_S + hour * 3600.0
        stream = draw(curve, from_s=begin, to_s=begin + hours * 3600.0, seed=int(10 * hour + hours))
        cut = Comparison(Setup(name, stream=stream), whole.say)
        results = {one: cut.row(lambda base, one=one: strategy(one, base)) for one in STRATEGIES}  # type: ignore[misc]
        found[f"{DAYS[name]}, {hour:g}:00, {hours:g}"] = {"replicas": cut.replicas(), "results": results}
    return found


def short_lines(found: Mapping[str, Json], bounds: Mapping[str, tuple[float, ...]]) -> list[str]:
    """The tables; a bound that was not kept says so."""
    lines: list[str] = []
    for name, cuts in found.items():
        lines += ["", f"### {name}: short recordings cut from a tuning day", "", HEAD]
        for label, cut in cuts.items():
            for strategy_name, r in cut["results"].items():
                change = [r["p99_change_ratio"][m] for m in ("ttft", "tbt", "e2e")]
                kept = all(c <= b for c, b in zip(change, bounds[strategy_name], strict=True))
                lines.append(
                    f"| {label} | {cut['replicas']} | {strategy_name} "
                    f"| {r['gpu_saving_ratio']['b0']:.1%}, {r['wall_saving_ratio']['b0']:.1%} "
                    f"| {' / '.join(f'{c:+.1%}' for c in change)} | {'kept' if kept else '**over**'} |"
                )
    return lines
