"""What the demo shows while it runs: a panel for a terminal, one plain line for a log. Figures only from LiveState."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.cli.live import LiveState

if TYPE_CHECKING:
    from rich.console import RenderableType


SHOWN = 3  # alerts with their sentence


@dataclass(frozen=True, slots=True)
class Facts:
    """What the view needs beside the live state."""

    elapsed_s: float
    nodes: int
    gpus: int
    broker: str
    strategy: str
    tbt_bound_ratio: float | None
    ttft_bound_ratio: float | None
    cores_used: float | None
    note: str
    api: str | None = None  # address of the Energy API and its console
    webhook: str = ""  # what the webhook test said
    webhooks: int = 0  # messages that the demo's receiver took, signature verified


def _number(value: float | None, unit: str = "", digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def _change(value: float | None, base: float | None) -> str:
    return "-" if value is None or not base else f"{(value / base - 1) * 100:+.1f} %"


def _p99(state: LiveState, group: str, kind: str, now_ns: int) -> float | None:
    """None when nobody is heard: an old number is no number."""
    if not state.heard(now_ns):
        return None
    window = (state.tbt if kind == "tbt" else state.ttft).get(group)
    return window.p99_ms() if window else None


def panel(state: LiveState, facts: Facts) -> RenderableType:
    """The live view, made for 80 columns and wider."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, expand=True, pad_edge=False)
    for column, justify in (
        ("", "left"),
        ("controlled", "right"),
        ("hold-out", "right"),
        ("change", "right"),
        ("bound", "right"),
    ):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    now_ns = time.time_ns()
    watts = state.mean_power_w("controlled", now_ns), state.mean_power_w("hold-out", now_ns)
    table.add_row("GPUs", str(state.gpus("controlled")), str(state.gpus("hold-out")), "", "")
    table.add_row("watts per GPU", _number(watts[0], " W"), _number(watts[1], " W"), _change(*watts), "less")
    for label, kind, bound in (
        ("p99 between tokens", "tbt", facts.tbt_bound_ratio),
        ("p99 first token", "ttft", facts.ttft_bound_ratio),
    ):
        ours, base = _p99(state, "controlled", kind, now_ns), _p99(state, "hold-out", kind, now_ns)
        limit = "-" if bound is None else f"{(bound - 1) * 100:+.0f} %"
        table.add_row(label, _number(ours, " ms"), _number(base, " ms"), _change(ours, base), limit)
    figures = Table.grid(padding=(0, 3))
    figures.add_row(
        f"caps in force {state.caps_in_force()}",
        f"lag {_number(state.lag_s(now_ns), ' s', 1)}",
        f"loop p50 {_number(state.loop_quantile_ms(0.5), ' ms')} p99 {_number(state.loop_quantile_ms(0.99), ' ms')}",
    )
    figures.add_row(
        f"applied {state.counts.get('applied', 0):,}",
        f"refused {state.counts.get('refused', 0):,}",
        f"cores {_number(facts.cores_used, '', 2)} of 2" if facts.cores_used is not None else "cores -",
    )
    alerts = [Text(alert_line(state, facts))]
    if newest := sorted(state.firing.values(), key=lambda one: one.ts_ns)[-SHOWN:]:
        alerts += [Text(f"  {one.summary}", style="yellow", no_wrap=True, overflow="ellipsis") for one in newest]
    head = Text.assemble(
        ("SIMULATED ", "bold black on yellow"),
        f" {facts.nodes} nodes x {facts.gpus} GPUs, {facts.strategy}, {facts.elapsed_s:,.0f} s",
    )
    return Panel(
        Group(
            head,
            Text(facts.broker, style="dim"),
            Text(_api(facts)),
            Text(""),
            table,
            Text(""),
            figures,
            Text(""),
            *alerts,
            Text(facts.note, style="dim"),
        ),
        title="Energy Orchestrator",
        subtitle="Ctrl-C ends it and restores everything",
    )


def alert_line(state: LiveState, facts: Facts) -> str:
    """Alerts as the topic tells them, and who was told."""
    count = f"alerts {len(state.firing)} firing, {state.counts.get('alerts', 0)} in all"
    return f"{count}   webhooks {facts.webhooks} verified   {facts.webhook}".rstrip()


def _api(facts: Facts) -> str:
    return "API starting" if facts.api is None else f"console {facts.api}/   API {facts.api}/docs"


def line(state: LiveState, facts: Facts) -> str:
    """The same in one line, where there is no terminal."""
    now_ns = time.time_ns()
    watts = state.mean_power_w("controlled", now_ns), state.mean_power_w("hold-out", now_ns)
    tbt = _p99(state, "controlled", "tbt", now_ns), _p99(state, "hold-out", "tbt", now_ns)
    return (
        f"[SIMULATED] {facts.elapsed_s:5.0f} s  nodes {state.heard(now_ns)}/{facts.nodes}"
        f"  W/GPU {_number(watts[0], digits=1)} vs hold-out {_number(watts[1], digits=1)} ({_change(*watts)})"
        f"  p99 TBT {_number(tbt[0], ' ms', 1)} vs {_number(tbt[1], ' ms', 1)}  caps {state.caps_in_force()}"
        f"  lag {_number(state.lag_s(now_ns), ' s', 1)}"
        f"  loop p99 {_number(state.loop_quantile_ms(0.99), ' ms')}"
        f"  alerts {len(state.firing)} firing, {state.counts.get('alerts', 0)} in all"
    )
