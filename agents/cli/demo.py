"""`eo demo`: the whole loop on simulated nodes, live in the terminal, then a summary that anybody can count again."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agents.cli.base import DONE, FAILED, USAGE, EoError
from agents.node.training_rules import KNOBS
from streams.contract.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agents.cli.demo_fault import Planned
    from agents.cli.demo_receiver import DemoReceiver
    from agents.cli.demo_view import Facts
    from agents.cli.live import LiveReader, LiveState
    from agents.cli.stack import Plan, Stack

N = TypeVar("N", int, float)
LINE_EVERY_S = 5.0
USAGE_EVERY_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from agents.cli.intents import duration_s

    parser.epilog = (
        "example: eo demo --nodes 20\n"
        "example: eo demo --fault hungry-load@20+30    a fault 20 s after the first row, for 30 s\n"
        "example: eo demo --nodes 20 --training    one node trains; its job's choice takes about three minutes\n"
        "example: eo demo fault slow-link --for 30s    the same in a running demo, from another terminal\n"
        "example: eo demo fault --clear                end all faults; eo demo faults lists them\n"
        "environment: DEMO_SECONDS (run unattended for so long), DEMO_JSON (write the summary there),\n"
        "DEMO_NODES, DEMO_GPUS, DEMO_FAULTS (as --fault, several separated by spaces), EO_DATA_DIR"
    )
    parser.add_argument("--nodes", type=int, default=_env_int("DEMO_NODES", 100), help="simulated nodes (default 100)")
    parser.add_argument(
        "--gpus", type=int, default=_env_int("DEMO_GPUS", 8), help="GPUs per node, a multiple of 4 (default 8)"
    )
    parser.add_argument(
        "--seconds", type=float, default=_env_float("DEMO_SECONDS"), help="end after so long (default: Ctrl-C)"
    )
    parser.add_argument(
        "--strategy", default="balanced", help="conservative, balanced (default), aggressive or ml-driven"
    )
    parser.add_argument(
        "--training", type=int, nargs="?", const=1, default=0, metavar="N",
        help="let the last N nodes (default 1) train instead of serving; the summary says what their jobs chose",
    )  # fmt: skip
    parser.add_argument(
        "--training-knob", choices=KNOBS, default="clock", help="what those jobs turn: clock (default) or power"
    )
    parser.add_argument(
        "what", nargs="*", metavar="fault NAME", help="give a running demo a fault; `faults` lists them"
    )
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME[@AFTER_S][+FOR_S]", help="start a fault; may be repeated"
    )
    parser.add_argument("--for", dest="duration_s", type=duration_s, metavar="TIME", help="fault: 30s, 10m; else until")
    parser.add_argument("--node", action="append", default=[], help="fault: on this simulated node; may be repeated")
    parser.add_argument("--clear", action="store_true", help="fault: end it (without a name: end all)")
    parser.add_argument("--out", type=Path, default=_env_path("DEMO_JSON"), help="write the summary as JSON there")


def _env_int(name: str, default: int) -> int:
    return default if (text := os.environ.get(name)) is None else _number(name, text, int)


def _env_float(name: str) -> float | None:
    return _number(name, text, float) if (text := os.environ.get(name)) else None


def _number(name: str, text: str, kind: type[N]) -> N:
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise EoError(f"{name}={text!r} is not {wanted}; set one or leave it out", USAGE) from None


def _env_path(name: str) -> Path | None:
    return Path(text) if (text := os.environ.get(name)) else None


def run(args: argparse.Namespace) -> int:
    from agents.cli import demo_fault
    from agents.cli.config import refuse_misspelt
    from agents.cli.stack import Plan, Stack

    if args.what:
        if args.what[0] not in {"fault", "faults"}:
            raise EoError(f"{args.what[0]!r} is no part of a demo; `eo demo fault NAME` starts a fault.", USAGE)
        return demo_fault.run(args)
    if args.duration_s or args.node or args.clear:
        raise EoError(
            "--for, --node and --clear belong to `eo demo fault NAME`; a demo takes --fault NAME@20+30", USAGE
        )
    check(args)
    planned = [demo_fault.parse(text) for text in (*os.environ.get("DEMO_FAULTS", "").split(), *args.fault)]
    refuse_misspelt(os.environ)
    layout = Layout.from_env()
    plan = Plan(
        nodes=args.nodes, gpus=args.gpus, seconds=args.seconds, strategy=args.strategy, short_alerts=True,
        training=args.training, training_knob=args.training_knob,
    )  # fmt: skip
    begun = time.monotonic()
    stack = Stack(layout, plan, say=_say)
    with _interruptible() as stop:
        try:
            stack.start()
            seconds = show(stack, plan, stop, begun=begun, planned=planned)
            summary = finish(stack, seconds)
        finally:
            stack.stop()
    return conclude(args, layout, summary)


def _say(text: str) -> None:
    print(f"eo demo: {text}", file=sys.stderr, flush=True)


def check(args: argparse.Namespace) -> None:
    """Refuses sizes that cannot run, with the bound."""
    from models.policy.strategies import STRATEGIES

    if not 1 <= args.nodes <= 1000:
        raise EoError(
            f"--nodes {args.nodes} is outside 1..1000; choose a number of nodes that one machine can simulate", USAGE
        )
    if args.gpus % 4 or not 4 <= args.gpus <= 16:
        raise EoError(f"--gpus {args.gpus} is not 4, 8, 12 or 16; a simulated engine spans 4 GPUs", USAGE)
    if not 0 <= args.training < args.nodes:
        raise EoError(f"--training {args.training} is not 0 to {args.nodes - 1}; one of the nodes must serve", USAGE)
    if args.seconds is not None and not 0 < args.seconds < float("inf"):
        raise EoError(f"--seconds {args.seconds:g} is not above 0 and finite; leave it out to run until Ctrl-C", USAGE)
    if args.strategy not in STRATEGIES:
        raise EoError(f"--strategy {args.strategy!r} is none of {', '.join(STRATEGIES)}; choose one of them", USAGE)
    if args.out is not None:
        _writable(args.out)


def _writable(path: Path) -> None:
    """Found out before the run, not after it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise EoError(
            f"the summary cannot be written to {path} ({error.strerror}); choose another DEMO_JSON"
        ) from error


class Stop:
    """Set by the first SIGINT, SIGTERM or SIGHUP (a closed terminal); a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _interruptible() -> Iterator[Stop]:
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(stack: Stack, plan: Plan, stop: Stop, *, begun: float, planned: list[Planned]) -> float:
    """Shows the running loop until its time is over or somebody ends it; returns the seconds that it was shown."""
    from agents.cli import demo_fault
    from agents.cli.demo_receiver import DemoReceiver
    from agents.cli.live import LiveReader, LiveState
    from streams.contract.topics import ALERT

    since_start_s = (time.time_ns() - stack.started_ns) / 1e9
    reader, state = LiveReader(stack.bootstrap, history_s=0.0, more={ALERT: since_start_s}), LiveState("demo")
    receiver = DemoReceiver(stack.layout)
    try:
        _first_row(reader, state, stack, stop)
        _say(f"first live row after {time.monotonic() - begun:.1f} s")
        told = receiver.test("demo")
        _say(told)
        demo_fault.schedule(stack.layout, planned, time.time_ns())
        return _watch(reader, state, stack, plan, stop, _Hook(receiver, told))
    finally:
        receiver.close()
        reader.close()


def _first_row(reader: LiveReader, state: LiveState, stack: Stack, stop: Stop, *, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not state.counts.get("features") and not stop.asked:
        reader.poll(state, 0.2)
        stack.processes.revive()
        if time.monotonic() > deadline:
            logs = stack.layout.root / "logs"
            raise EoError(
                f"no feature row within {timeout_s:.0f} s; the reason stands in {logs}/worker.log or {logs}/fleet.log",
                FAILED,
            )


@dataclass(frozen=True, slots=True)
class _Hook:
    """The demo's receiver, and what its test said."""

    receiver: DemoReceiver
    told: str


def _watch(reader: LiveReader, state: LiveState, stack: Stack, plan: Plan, stop: Stop, hook: _Hook) -> float:
    from rich.console import Console
    from rich.live import Live

    from agents.cli.demo_view import line, panel

    console = Console(stderr=False)
    started = time.monotonic()
    meter = _Meter(stack)
    live = Live(console=console, auto_refresh=False, screen=False) if console.is_terminal else None
    last_shown, api = 0.0, None
    with live or _nothing():
        while not stop.asked and (plan.seconds is None or time.monotonic() - started < plan.seconds):
            reader.poll(state, 0.25)
            now = time.monotonic()
            meter.update(now)
            if now - last_shown < (0.5 if live else LINE_EVERY_S):
                continue
            last_shown = now
            facts = _facts(stack, plan, meter, now - started, hook)
            if live:
                live.update(panel(state, facts), refresh=True)
            else:
                print(line(state, facts), flush=True)
            if facts.api != api and live is None:
                api = facts.api
                _say(f"console {api}/   API {api}/docs")
    return time.monotonic() - started


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class _Meter:
    """Cores used over the last few seconds, and the restarts that happened."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._before, self._at = stack, None, 0.0
        self.cores: float | None = None
        self.note = "the clock lock is the first knob; a power limit is the ceiling"

    def update(self, now: float) -> None:
        if now - self._at < USAGE_EVERY_S:
            return
        for text in self._stack.processes.revive():
            self.note = text
        total = sum(self._stack.usage().cpu_s.values())
        if self._before is not None:
            self.cores = max(0.0, (total - self._before) / (now - self._at))
        self._before, self._at = total, now

    _before: float | None


def _facts(stack: Stack, plan: Plan, meter: _Meter, elapsed_s: float, hook: _Hook) -> Facts:
    from agents.cli.demo_view import Facts
    from models.policy.strategies import strategy

    bounds = strategy(plan.strategy)
    return Facts(
        elapsed_s=elapsed_s,
        nodes=plan.nodes,
        gpus=plan.gpus,
        broker=stack.broker.label if stack.broker else "-",
        strategy=plan.strategy,
        tbt_bound_ratio=bounds.tbt.ratio,
        ttft_bound_ratio=bounds.ttft.ratio,
        cores_used=meter.cores,
        note=meter.note,
        api=stack.api_address(),
        webhook=hook.told,
        webhooks=hook.receiver.verified,
    )


def finish(stack: Stack, seconds: float) -> dict[str, Any]:
    """Takes the loop down in order, then counts."""
    from agents.cli.demo_report import summarise

    stack.usage()
    stack.settle()
    return summarise(stack, seconds)


def conclude(args: argparse.Namespace, layout: Layout, summary: dict[str, Any]) -> int:
    """Prints the summary and what next; writes DEMO_JSON. Fails when something was lost or not put back."""
    from agents.cli.demo_report import text

    if args.out is not None:
        args.out.write_text(json.dumps(summary, indent=2) + "\n")
    if args.json:
        print(json.dumps(summary, indent=2))
    else:
        print(text(summary, layout))
    return DONE if summary["lost"] == 0 and summary["not_restored"] == 0 else FAILED
