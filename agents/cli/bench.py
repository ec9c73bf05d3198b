"""`eo bench`: measurements that anybody can run again; each prints its figures and can write them as a page."""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

from agents.cli.base import DONE, USAGE, EoError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from agents.cli import bench_control, bench_limit

    parser.epilog = (
        "example: eo bench loop --seconds 60\nexample: eo bench stream\nexample: eo bench twin --json twin.json\n"
        "example: eo bench limit --sweep all --slowdown 0.05\n"
        "example: eo bench control --workload azure-code-2024 --strategy all --days 2 --json out.json"
    )
    parser.add_argument(
        "what",
        choices=("loop", "stream", "twin", "limit", "control"),
        help="loop: sample to read-back; stream: backlog; twin: its gates; limit: choice of a training job's limit; "
        "control: strategies on request traces, simulated",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=True,
        default=False,
        metavar="OUT",
        help="print the result as JSON, or write it to OUT",
    )
    parser.add_argument("--nodes", type=int, default=100, help="simulated nodes (default 100)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs per node (default 8)")
    parser.add_argument("--seconds", type=float, default=90.0, help="length of the loop's run (default 90)")
    parser.add_argument("--write", type=Path, default=None, help="write the result as a Markdown page")
    bench_limit.add_arguments(parser)
    bench_control.add_arguments(parser)
    parser.set_defaults(seeds=None)  # each measurement has its own: see run


def run(args: argparse.Namespace) -> int:
    check_outputs(args)
    if args.seeds is None:
        from agents.cli.bench_limit import SEEDS

        args.seeds = SEEDS if args.what == "limit" else 1
    if args.what == "control":
        from agents.cli.bench_control import run as run_control

        return run_control(args)
    if args.what == "stream":
        from agents.cli.bench_stream import run as run_stream

        return run_stream(args)
    if args.what == "twin":
        from agents.cli.bench_twin import run as run_twin

        return run_twin(args)
    if args.what == "limit":
        from agents.cli.bench_limit import run as run_limit

        return run_limit(args)
    summary = loop(args)
    if args.write is not None:
        put(args.write, page(summary, args))
    deliver(args, summary, page(summary, args))
    return DONE


def check_outputs(args: argparse.Namespace) -> None:
    """Refuses, before anything runs, a --json or --write that could not be written when its result is there."""
    given = {"--json": getattr(args, "json", None), "--write": getattr(args, "write", None)}
    for option, value in given.items():
        if isinstance(value, str | Path):
            _check_output(option, Path(value))


def _check_output(option: str, out: Path) -> None:
    if out.is_dir():
        raise EoError(f"{option} {out} is a folder; name a file in it, such as {out / 'out.json'}", USAGE)
    if out.exists() and not out.is_file():
        return  # a terminal or a pipe: opening it to try would already tell its reader something
    there = out.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a"):
            pass
        if not there:
            out.unlink()
    except OSError as error:
        raise EoError(
            f"{option} {out} cannot be written ({error.strerror}); name a file in a folder of yours", USAGE
        ) from error


def put(out: Path, text: str) -> None:
    """Writes a result; one sentence where the place has gone since it was checked."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
    except OSError as error:
        raise EoError(f"{out} could not be written ({error.strerror}); name a file in a folder of yours") from error


def deliver(args: argparse.Namespace, value: object, text: str) -> None:
    """Text to the terminal; with --json the value instead, or beside it into a file."""
    if args.json is True:
        print(json.dumps(value, indent=2, default=str))
        return
    if args.json:
        put(Path(args.json), json.dumps(value, indent=2, default=str) + "\n")
    print(text.rstrip("\n"))


def loop(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole loop in a folder of its own and counts; the demo's own stack, without its view."""
    import tempfile

    from agents.cli.demo_report import summarise
    from agents.cli.stack import Plan, Stack
    from streams.contract.layout import Layout

    if args.seconds < 30:
        raise EoError(f"--seconds {args.seconds:g} is below 30: the jobs need that long to settle; choose 30 or more")
    with tempfile.TemporaryDirectory(prefix="eo-bench-") as folder:
        stack = Stack(Layout(Path(folder) / "data"), Plan(nodes=args.nodes, gpus=args.gpus), say=lambda _: None)
        try:
            stack.start()
            until = time.monotonic() + args.seconds
            while time.monotonic() < until:
                time.sleep(1)
                stack.processes.revive()
                stack.usage()
            stack.settle()
            return summarise(stack, args.seconds)
        finally:
            stack.stop()


def page(s: dict[str, Any], args: argparse.Namespace) -> str:
    """The figures beside their bounds; a figure that misses its bound is shown as it is."""
    cores = sum(s["cpu_core_seconds"].values()) / s["wall_seconds"]
    rows = [
        ("loop p50, sample on the node to limit read back", _ms(s["loop_ms_p50"]), "-"),
        ("loop p99", _ms(s["loop_ms_p99"]), "< 500 ms"),
        ("samples acknowledged / archived rows", f"{s['samples']:,} / {s['archived_rows']:,}", "equal"),
        ("lost / duplicates / dead letters", f"{s['lost']} / {s['duplicates']} / {s['dlq']}", "0 / no effect / 0"),
        ("envelopes / applied / refused", f"{s['commands']:,} / {s['applied']:,} / {s['refused']:,}", "-"),
        ("GPUs not at their previous value at the end", str(s["not_restored"]), "0"),
        ("cores used in all, start and end included", f"{cores:.2f}", "< 1.2 (60 % of two)"),
    ]
    lines = [
        "# The loop",
        "",
        f"`eo bench loop --nodes {args.nodes} --gpus {args.gpus} --seconds {args.seconds:g}`, simulated nodes,",
        f"{s['broker']};",
        f"{platform.machine()}, {_cpu_model()}, {_cores()} cores, Python {platform.python_version()}.",
        "Broker, nodes, jobs, archive and ledger share the cores. Figures of one run: a shared machine moves them.",
        "",
        "| what | seen | bound |",
        "|---|---|---|",
        *(f"| {what} | {seen} | {bound} |" for what, seen, bound in rows),
        "",
        "| process | CPU s | RSS MB |",
        "|---|---|---|",
        *(f"| {role} | {cpu:.1f} | {s['rss_mb'].get(role, 0):.0f} |" for role, cpu in s["cpu_core_seconds"].items()),
        "",
    ]
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} ms"


def _cores() -> int:
    import os

    return os.cpu_count() or 0


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
