"""The result of `eo whatif` as text. Nothing is computed here; unknown prints as "unknown"."""

from __future__ import annotations

from typing import Any

from agents.cli.base import table


def page(result: dict[str, Any]) -> str:
    """Everything a reader must know, the twin's error before its saving."""
    span, shares = result["range"], result["shares"]
    rows = ", ".join(f"{share:.0%} {name}" for name, share in shares["archive_rows"].items() if share)
    lines = [
        f"what-if [SIMULATED]: strategy {result['strategy']} on {span['from']} to {span['to']}",
        f"archive rows: {rows}; what really ran: {', '.join(result['really_ran']) or 'no strategy'}",
        f"replayed: {result['engines']['replayed']} of {result['engines']['in_range']} engines, "
        f"{_share(shares['replayed_of_engine_time'])} of their time",
    ]
    for stack in result["stacks"]:
        lines += ["", *_stack(stack)]
    for one in result["refused"]:
        lines += ["", f"refused {one['stack']}: {one['reason']}"]
    if (budget := result["budget"]) is not None:
        lines += [
            "",
            f"budget {budget['asked_w']:,.0f} W: highest sum of ceilings {budget['highest_sum_of_ceilings_w']:,} W, "
            f"{budget['engine_s_without_ceiling']:,.0f} engine seconds without a ceiling",
            f"  ({budget['note']})",
            *([] if budget["bounds_kept"] else [f"  {_BROKEN}"]),
        ]
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(lines)


def _stack(one: dict[str, Any]) -> list[str]:
    what, ran = one["whatif"], one["measured"]
    ratios = one["ratios"]
    beyond = " EXTRAPOLATED" if what["extrapolated"]["ratio"] > 0 else ""
    saving, interval = what["saving_ratio"], what["interval"]
    checks = [
        (
            row["quantity"],
            _number(row["measured"]),
            _number(row["predicted"]),
            _share(row["error_ratio"]),
            _share(row["bound"]),
            "yes" if row["passed"] else "no",
        )
        for row in one["check"]
    ]
    latency = [
        (kind, _number(ran["p99_ms"][kind]), *(_number(row[name]) for name in _COLUMNS))
        for kind, row in what["p99_ms"].items()
    ]
    commands = one["commands"]
    return [
        f"{one['stack']} on {one['gpu']} ({one['engines']} engines, {one['holdout_engines']} held out by "
        f"{one['holdout_from']}; profile {one['profile']})",
        f"calibrated on {one['calibrated_s']:.0f} s: time x{ratios['decode']:.3f} decode, x{ratios['prefill']:.3f} "
        f"prefill; power x{ratios['power']:.3f}; kappa {one['kappa']} ({one['kappa_from']})",
        f"checked on {one['checked_s']:.0f} s of what really ran:",
        table(checks, ("quantity", "measured", "twin", "error", "bound", "passed")),
        f"replayed on {one['replayed_s']:.0f} s ({one['replayed']}):",
        f"  energy {ran['energy_j'] / 3.6e6:,.3f} kWh measured -> {what['energy_j'] / 3.6e6:,.3f} kWh [SIMULATED]; "
        f"{ran['power_w']:.0f} -> {what['power_w']:.0f} W per GPU",
        f"  saving against default clocks {_saving(saving['against_default'], interval['against_default'])}{beyond}",
        f"  saving against what really ran {_saving(saving['against_what_ran'], interval['against_what_ran'])}{beyond}",
        *([] if not beyond else [f"  EXTRAPOLATED: {_beyond(what['extrapolated'])}"]),
        *([] if not what["warm_up_dropped_s"] else [f"  without the first {what['warm_up_dropped_s']:.0f} s: {_WARM}"]),
        *([] if what["wall"] is None else [f"  at the wall, all nodes on: {_wall(what['wall'])}{beyond}"]),
        *_replicas(what["replicas"], beyond),
        table(latency, ("p99 ms", "measured, all", "strategy", "default", "what ran")),
        "  (strategy, default and what ran: simulated, controlled engines)",
        *_bounds(what),
        f"  commands: {commands['envelopes']} envelopes, {commands['clock_changes']} clock changes "
        f"({commands['clock_changes_per_engine_hour']:.0f} per engine and hour), {commands['limit_changes']} limit "
        f"changes, granted {commands['granted_ratio']:.0%} of the time",
    ]


_BROKEN = "under this budget the strategy's bounds are NOT kept; give a higher --budget-w for latency to hold"


def _bounds(what: dict[str, Any]) -> list[str]:
    """Each p99 beyond what the strategy allows, or unknown."""
    if what["bounds"]["kept"] is not False:
        return []
    seen = {kind: row["strategy_controlled"] for kind, row in what["p99_ms"].items()}
    words = [
        f"p99 {kind} {'unknown' if seen[kind] is None else f'{seen[kind]:,.1f} ms'} where {limit:,.1f} ms is allowed"
        for kind, limit in what["bounds"]["p99_ms"].items()
        if seen[kind] is None or seen[kind] > limit
    ]
    return [f"  bounds NOT kept: {'; '.join(words)}"]


_COLUMNS = ("strategy_controlled", "default_controlled", "ran_controlled")


_WARM = "the pools of a replay begin empty, those of a product do not"


def _wall(one: dict[str, Any]) -> str:
    low, high = one["interval_of_assumed_nodes"]
    saving = one["saving_against_default"]
    return f"{saving:.1%} against default clocks ({low:.1%} to {high:.1%} over assumed nodes) [SIMULATED]"


def _replicas(one: dict[str, Any] | None, beyond: str) -> list[str]:
    if one is None:
        return []
    if one["off"] == 0:
        return [f"  replicas: all {one['controlled']} controlled engines are needed for this load, one to spare"]
    crowd = one["sequences_per_engine"]
    if one["extrapolated"]:
        beyond = " EXTRAPOLATED"
    words = f", {crowd['expected']:.0f} sequences an engine in the mean, {crowd['shown_p99']:.0f} at most shown"
    kept = "bounds kept" if one["bounds_kept"] else "bounds NOT kept"
    return [
        f"  replicas: {one['fewest_within_bounds']} of {one['controlled']} controlled engines would carry this load; "
        f"{one['on_with_spare']} on, {one['off']} off ({kept}{words}):",
        f"    GPU energy {one['gpu_saving_against_default']:.1%} below default, all on (replicas alone "
        f"{one['gpu_saving_of_replicas_alone']:.1%}); wall {_wall(one['wall'])}{beyond}",
    ]


def _saving(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "unknown"
    spread = "interval unknown: range too short" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"
    return f"{value:.1%} ({spread}) [SIMULATED]"


def _beyond(found: dict[str, Any]) -> str:
    by_limit = f" ({found['by_limit_ratio']:.0%} by a power limit)" if found["by_limit_ratio"] > 0 else ""
    return "; ".join(
        [
            f"{found['ratio']:.0%} of the engines' time{by_limit} at clocks down to {found['lowest_mhz']:.0f} MHz, and "
            f"the archive shows none below {found['lowest_shown_mhz']:.0f} MHz before the replay",
            *found["unclaimed"],
        ]
    )


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f}"
