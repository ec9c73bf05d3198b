"""Plots of docs/benchmarks/control.md from the JSON of the parts that were run. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

OURS: Final = ("o", "s", "D", "^")
RIVALS: Final = ("x", "+", "1", "2", "3", "4", "|")
Json = dict[str, Any]
Parts = Callable[[Path, str], dict[str, Json]]


def draw(parts: Parts, folder: Path, plots: Path) -> list[str]:
    """Energy against latency, one plot a service; rivals and strategies as points."""
    lines: list[str] = []
    for name, found in (parts(folder, "rivals") or parts(folder, "main")).items():
        path = plots / f"pareto-{name}.svg"
        _scatter(path, name, {**found["baselines"], **found["results"], **{r["name"]: r for r in found["rivals"]}})
        lines += ["", f"![energy against latency, {name}](control/{path.name})"]
    for name, found in parts(folder, "hours").items():
        path = plots / f"hours-{name}.svg"
        _hours(path, name, found)
        lines += ["", f"![hour by hour, {name}](control/{path.name})"]
    for name, found in parts(folder, "kappa").items():
        path = plots / f"kappa-{name}.svg"
        _kappa(path, name, found["results"])
        lines += ["", f"![saving against kappa, {name}](control/{path.name})"]
    for name, found in parts(folder, "delay").items():
        path = plots / f"delay-{name}.svg"
        _delay(path, name, found)
        lines += ["", f"![saving and first token against loop delay, {name}](control/{path.name})"]
    return lines


def _axes(count: int = 1) -> tuple[Any, Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "control"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(count, figsize=(7.0, 4.2), layout="constrained", squeeze=False, sharex=count > 1)
    for one in axes[:, 0]:
        one.grid(visible=True, linewidth=0.4, alpha=0.5)
    return pyplot, figure, axes[:, 0]


def _plain(axis: Any, at: tuple[float, ...]) -> None:
    """A logarithmic axis with these numbers on it, written out."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axis.set_major_locator(FixedLocator(at))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _scatter(path: Path, title: str, rows: dict[str, Json]) -> None:
    """A mark for each policy, ours filled; by a legend, since several lie on each other."""
    pyplot, figure, (axes,) = _axes()
    ours = ("conservative", "balanced", "aggressive", "ml-driven")
    colors = pyplot.get_cmap("tab10").colors
    for name, r in sorted(rows.items(), key=lambda one: -one[1]["wall_joules_per_request"]):
        at = r["p99_ms"]["ttft"], r["wall_joules_per_request"]
        if name in ours:
            axes.plot(*at, OURS[ours.index(name)], color="tab:green", label=name, markersize=8, alpha=0.8)
        else:
            k = [one for one in rows if one not in ours].index(name)
            axes.plot(*at, RIVALS[k % len(RIVALS)], color=colors[k % 10], label=name, markersize=7)
    axes.axvline(2_000.0, color="tab:red", linewidth=0.8)
    axes.set(
        xscale="log",
        xlabel="p99 time to first token, ms (SLO 2 s)",
        ylabel="J per request at the wall",
        title=f"{title}, simulated",
    )
    _plain(axes.xaxis, (500.0, 700.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0))
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _delay(path: Path, title: str, rows: dict[str, Json]) -> None:
    pyplot, figure, (axes,) = _axes()
    delays = [sum(float(part.removesuffix(" s")) for part in name.split(" + ")) for name in rows]
    axes.plot(delays, [100 * r["gpu_saving_ratio"]["b0"] for r in rows.values()], "o-", label="GPU energy below B0, %")
    axes.plot(
        delays,
        [(r["worst_hour"]["p99_ttft_ms"] or float("nan")) / 20 for r in rows.values()],
        "x--",
        label="worst hour's p99 first token, % of 2 s",
    )
    axes.set(xscale="log", xlabel="loop period + delay, s", title=f"{title}, simulated", ylim=(0, None))
    _plain(axes.xaxis, (0.1, 0.5, 1.0, 5.0, 10.0, 50.0))
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _hours(path: Path, title: str, rows: dict[str, Json]) -> None:
    """Power at the wall over the judged hours, and every hour's p99 of the first token below it."""
    pyplot, figure, axes = _axes(2)
    for name, r in rows.items():
        # The last entry is the minute after the last hour, in which requests still end.
        hours = range(len(r["wall_kwh"]) - 1)
        axes[0].plot(hours, r["wall_kwh"][:-1], linewidth=1.0, label=name)
        axes[1].plot(hours, [v or float("nan") for v in r["p99_ttft_ms"][:-1]], linewidth=1.0)
    axes[0].set(ylabel="kW at the wall", title=f"{title}, simulated", ylim=(0, None))
    axes[0].legend(fontsize=7, ncols=1, loc="center right", bbox_to_anchor=(1.22, 0.5))
    axes[1].axhline(2_000.0, color="tab:red", linewidth=0.8)
    axes[1].set(xlabel="judged hour", ylabel="p99 first token, ms", yscale="log")
    _plain(axes[1].yaxis, (500.0, 700.0, 1_000.0, 1_500.0, 2_000.0))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _kappa(path: Path, title: str, rows: dict[str, Json]) -> None:
    pyplot, figure, (axes,) = _axes()
    for k, r in enumerate(rows.values()):
        for at, what in ((k - 0.1, "gpu"), (k + 0.1, "wall")):
            low, high = r["saving_interval"][what]
            axes.plot([at, at], [100 * low, 100 * high], "_-", color="tab:green" if what == "gpu" else "tab:blue")
            axes.annotate(what, (at, 100 * high), fontsize=7, xytext=(0, 3), textcoords="offset points", ha="center")
    axes.set(ylabel="saved below B0, %, over kappa", title=f"{title}, simulated", xlim=(-0.6, len(rows) - 0.4))
    axes.set_xticks(range(len(rows)), list(rows))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
