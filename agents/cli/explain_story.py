"""What `eo explain` tells: rows about one GPU, wherever they came from, and the sentences made of them. No I/O here.

Rows are plain dictionaries with the archive's column names, so that topics and archive are told by the same words.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from agents.cli.base import table

Row = dict[str, Any]
UNSOLICITED = ("expiry", "restore", "foreign_change", "not_actuatable")


UNNAMED: Final = (
    "No command names it. Mode observe, the default, sends none; EO_MODE=recommend shows what would be granted."
)


@dataclass(slots=True)
class GpuStory:
    """One GPU: its newest command, the answers to it, and what the detectors and the ledger say."""

    node: str
    uuid: str
    command: Row | None = None
    ack: Row | None = None  # the newest answer to a command
    events: list[Row] = field(default_factory=list)  # expiries, restores, ...: newest last
    verdicts: list[Row] = field(default_factory=list)
    ledger: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class Story:
    """All GPUs asked for, and where the rows come from ("topics" or "archive")."""

    cluster: str
    source: str
    now_ns: int
    since_s: float
    gpus: list[GpuStory]
    plan: list[str] = field(default_factory=list)  # sentences of the slow controller that bear on these GPUs

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def text(story: Story) -> str:
    """The whole story: full sentences for one GPU, a table and the reasons for a node."""
    head = f"Cluster {story.cluster}, told from the {story.source} at {_clock(story.now_ns)} UTC."
    if not story.gpus:
        return f"{head}\n{UNNAMED}"
    if len(story.gpus) == 1:
        return "\n".join([head, *gpu_lines(story.gpus[0], story), *story.plan])
    rows = [_short(gpu) for gpu in story.gpus]
    reasons = [_why(gpu) for gpu in story.gpus if gpu.command is not None]
    why = [f"{reasons.count(one)} of {len(story.gpus)} GPUs: {one}" for one in dict.fromkeys(reasons)]
    body = table(rows, ("GPU", "granted", "answer", "limit W", "lock MHz", "drawn W", "anomalies"))
    return "\n".join([head, "", body, "", *why, *story.plan, "", f"All of one GPU: eo explain {story.gpus[0].uuid}"])


def _short(gpu: GpuStory) -> tuple[object, ...]:
    ack = gpu.ack or dict.fromkeys(("status", "effective_limit_w", "effective_sm_mhz", "measured_w"))
    drawn = None if ack["measured_w"] is None else round(ack["measured_w"])
    limit = None if ack["effective_limit_w"] is None else f"{ack['effective_limit_w']:g}"
    return gpu.uuid, granted(gpu.command), ack["status"], limit, ack["effective_sm_mhz"], drawn, len(gpu.verdicts)


def gpu_lines(gpu: GpuStory, story: Story) -> list[str]:
    """Plain sentences on one GPU."""
    lines = [f"{gpu.uuid} in {gpu.node}."]
    command = gpu.command
    if command is None:
        lines.append(UNNAMED)
    else:
        lines.append(
            f"Command {command['epoch']}/{command['seq']}, issued {_ago(command['ts_ns'], story.now_ns)} in mode "
            f"{command['mode']}, strategy {command['strategy']}: {granted(command)}."
        )
        lines += [f"Why: {_why(gpu)}", *_cause(command), _targets(command), _lease(command, story.now_ns)]
    lines.append(answer(gpu))
    lines += [_event(row, story.now_ns) for row in gpu.events[-3:]]
    lines += _verdicts(gpu, story)
    lines += _ledger(gpu, story)
    return [line for line in lines if line]


def granted(command: Row | None) -> str:
    """What a command grants, in words."""
    if command is None:
        return "no command"
    parts = []
    if command["max_sm_mhz"] is not None:
        parts.append(f"clocks {command['min_sm_mhz']}-{command['max_sm_mhz']} MHz")
    if command["max_power_w"] is not None:
        parts.append(f"at most {command['max_power_w']:g} W")
    advice = " (advice only)" if command["mode"] in ("observe", "recommend") else ""
    return (" and ".join(parts) or "nothing granted") + advice


def answer(gpu: GpuStory) -> str:
    """What the node said to its newest command."""
    ack = gpu.ack
    if ack is None:
        return "The node has not answered." if gpu.command is not None else ""
    force = []
    if ack["effective_limit_w"] is not None:
        before = "" if ack["previous_limit_w"] is None else f" ({ack['previous_limit_w']:g} W before us)"
        force.append(f"limit {ack['effective_limit_w']:g} W{before}")
    lock = ack["effective_sm_mhz"]
    force.append("no clock lock" if lock is None else f"clock lock {lock} MHz")
    if ack["measured_w"] is not None:
        force.append(f"{ack['measured_w']:.0f} W drawn")
    reason = f", {ack['reason'].rstrip('.')}" if ack["reason"] else ""
    late = gpu.command is not None and (ack["epoch"], ack["seq"]) < (gpu.command["epoch"], gpu.command["seq"])
    which = f" to {ack['epoch']}/{ack['seq']}" if late else ""
    return f"The node answered{which}: {ack['status']}{reason}; read back: {', '.join(force)}."


def _why(gpu: GpuStory) -> str:
    return str(gpu.command["gpu_reason"]) if gpu.command is not None else ""


def _cause(command: Row) -> list[str]:
    cause = command["cause"]
    return [f"Shaped by: {', '.join(cause)}."] if cause else []


def _targets(command: Row) -> str:
    names = (("tbt_target_ms", "between tokens"), ("ttft_target_ms", "first token"), ("e2e_target_ms", "request"))
    known = [f"{word} {command[name]:.4g} ms" for name, word in names if command[name] is not None]
    return f"Latency targets (p99): {', '.join(known)}." if known else ""


def _lease(command: Row, now_ns: int) -> str:
    left_s = (command["ts_ns"] + command["ttl_ms"] * 10**6 - now_ns) / 1e9
    then = {
        "restore": "the value found before us goes back",
        "hold": "the last value stays",
        "floor": "the floor is set",
    }
    if left_s > 0:
        return f"The lease runs {left_s:.0f} s more unless it is renewed; then {then[command['on_expiry']]}."
    return f"The lease ended {_span(-left_s)} ago: {then[command['on_expiry']]}."


def _event(row: Row, now_ns: int) -> str:
    reason = f": {row['reason'].rstrip('.')}" if row["reason"] else ""
    return f"{_ago(row['ts_ns'], now_ns)}: {row['event'].replace('_', ' ')}, {row['status']}{reason}."


def _verdicts(gpu: GpuStory, story: Story) -> list[str]:
    if not gpu.verdicts:
        return [f"No anomaly in the last {_span(story.since_s)}."]
    return [
        f"Anomaly {_ago(row['ts_ns'], story.now_ns)} ({row['verdict_id']}): {row['metric']} scored {row['score']:.3g}, "
        f"threshold {row['threshold']:.3g} ({row['model']}), so {row['action']}."
        for row in gpu.verdicts[-3:]
    ]


def _ledger(gpu: GpuStory, story: Story) -> list[str]:
    if not gpu.ledger:
        return [f"The ledger closed nothing for it in the last {_span(story.since_s)}."]
    return [_ledger_line(row, story.now_ns) for row in gpu.ledger[-5:]]


def _ledger_line(row: Row, now_ns: int) -> str:
    line = f"Ledger, {_ago(row['closed_ns'], now_ns)}: {row['epoch']}/{row['seq']} {row['status']}"
    if row["effect_w"] is not None:
        line += (
            f", {row['power_before_w']:.0f} W before and {row['power_after_w']:.0f} W after ({row['effect_w']:+.0f} W)"
        )
    if row["tbt_p99_before_ms"] is not None and row["tbt_p99_after_ms"] is not None:
        line += f", p99 between tokens {row['tbt_p99_before_ms']:.1f} and {row['tbt_p99_after_ms']:.1f} ms"
    return line + "."


def _ago(ts_ns: int, now_ns: int) -> str:
    return f"{_span((now_ns - ts_ns) / 1e9)} ago" if ts_ns <= now_ns else "just now"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _clock(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ns // 10**9))
