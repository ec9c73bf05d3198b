"""What `eo doctor sensors` prints: how each power sensor here, or in a folder of recordings, makes its numbers.

Live: some seconds of readings of the agent's own sources; nothing is set. Recorded: each run's energy beside its meter,
with a calibration that never comes from the span that is judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.base import EoError
from agents.cli.doctor_check import Check

if TYPE_CHECKING:
    from agents.cli.sensor_archive import Run
    from agents.node.sources.base import Reading, Source
    from models.sensors.judge import Judged
    from models.sensors.types import SensorModel

LIVE_S: Final = 4.0
SLOW_S: Final = 1.0
ALSO: Final = ("nvml", "rapl", "dcgm")  # looked for even where the agent's settings do not name them
PAUSE_S: Final = 0.01  # faster than a sensor publishes, or its period cannot be seen
STEADY_RATIO, PULSED_SHARE = 0.02, 0.5


# --- recorded --------------------------------------------------------------------------------------------------------


def archive(folder: Path) -> tuple[list[Check], list[dict[str, Any]]]:
    """(checks, one row per run) of a folder of recordings."""
    from agents.cli.sensor_archive import load
    from models.sensors.publishing import stuck

    runs = load(folder)
    models = {run.name: _model(run) for run in runs}
    checks, rows = list[Check](), list[dict[str, Any]]()
    for run in runs:
        found = _described(run.name, models[run.name])
        checks += [found, *(Check(run.name, "note", f"{note}.") for note in run.notes)]
        row: dict[str, Any] = {"run": run.name, "board": run.board, **_fields(models[run.name])}
        if (frozen := stuck(run.time_s, run.power_w)) is not None:
            checks.append(Check(run.name, "warn", f"{frozen}."))
        if run.counter_j is not None:
            checks.append(_counter_check(run))
        if run.meter is None:
            checks.append(Check(run.name, "note", "no meter beside it: its energy cannot be judged."))
        else:
            others = [(other, models[other.name]) for other in runs if other is not run]
            row["judged"] = []
            for model, judged in judgements(run, others):
                checks.append(_judged_check(run.name, model, judged))
                row["judged"].append(_judged_fields(model, judged))
        rows.append(row)
    return checks, rows


def judgements(run: Run, others: Sequence[tuple[Run, SensorModel]]) -> list[tuple[SensorModel, Judged]]:
    """A run's energies: whole, with the calibration of another run of its board where there is one; and what follows
    its first part, with that part's calibration. Neither has seen the span that it is judged on."""
    from models.sensors.judge import judge, learned_ahead, with_calibration_of
    from models.sensors.learn import learn

    assert run.meter is not None
    found = []
    same = [model for other, model in others if other.board == run.board and model.calibration.known]
    if same:
        own = learn(run.time_s, run.power_w, busy_ratio=run.busy_ratio)
        model = with_calibration_of(own, min(same, key=lambda one: one.calibration.residual_w or 0.0))
        found.append((model, judge(run.time_s, run.power_w, run.busy_ratio, run.meter, model)))
    model, span = learned_ahead(run.time_s, run.power_w, run.busy_ratio, run.meter)
    found.append((model, judge(run.time_s, run.power_w, run.busy_ratio, run.meter, model, span=span)))
    return found


def _model(run: Run) -> SensorModel:
    from models.sensors.boxcar import from_edges
    from models.sensors.learn import learn

    edges = None
    if run.edge_s is not None:
        edges = from_edges(run.edge_s, start_s=float(run.time_s[0]), end_s=float(run.time_s[-1]))
    return learn(run.time_s, run.power_w, busy_ratio=run.busy_ratio, meter=run.meter, edges=edges, origin=run.name)


def _described(name: str, model: SensorModel) -> Check:
    said = [
        f"period {_ms(model.period_s)} ({model.why['period']})",
        f"window {_ms(model.window_s)}, lag {_ms(model.lag_s)} ({model.why['window']})",
    ]
    if model.calibration.known:
        said.append(f"reads {model.calibration.gain:.3f} x true {model.calibration.offset_w:+.1f} W")
    return Check(name, "ok" if model.period_s is not None else "note", "; ".join(said))


def _judged_check(name: str, model: SensorModel, judged: Judged) -> Check:
    kind = "pulsed" if judged.pulsed else "steady"
    span = judged.end_s - judged.start_s
    text = (
        f"{kind} load, {span:.1f} s: meter {judged.meter_j:.1f} J; naive integral {judged.naive_ratio:+.2%}, estimate "
        f"{judged.estimate_ratio:+.2%} (+-{judged.uncertainty_j / judged.meter_j:.1%}); by the second naive "
        f"{_percent(judged.naive_by_second_ratio)}, estimate {_percent(judged.estimate_by_second_ratio)}; calibrated "
        f"on {model.calibration.origin}"
    )
    return Check(f"{name} energy", "ok" if _good(judged) else "warn", text)


def _good(judged: Judged) -> bool:
    """Steady: within 2 %. Pulsed: by the second at most half of what the naive integral is off."""
    if not judged.pulsed:
        return abs(judged.estimate_ratio) <= STEADY_RATIO
    ours, naive = judged.estimate_by_second_ratio, judged.naive_by_second_ratio
    return ours is not None and naive is not None and ours <= PULSED_SHARE * naive


def _counter_check(run: Run) -> Check:
    from models.sensors import energy
    from models.sensors.counter import Counter, believe_counter

    assert run.counter_j is not None
    counter = Counter()
    for at, raw in zip(run.time_s.tolist(), run.counter_j.tolist(), strict=True):
        if raw == raw:  # not NaN
            counter.step(at, raw)
    start_s, end_s = float(run.time_s[0]), float(run.time_s[-1])
    integral_j = energy.naive(run.time_s, run.power_w, start_s=start_s, end_s=end_s)
    belief = believe_counter(counter.total_j, integral_j, elapsed_s=end_s - start_s)
    resets = f" The counter was reset {counter.resets} times." if counter.resets else ""
    return Check(f"{run.name} counter", "ok" if belief.quality == "measured" else "warn", belief.reason + resets)


def _fields(model: SensorModel) -> dict[str, Any]:
    return {
        "period_s": model.period_s,
        "window_s": model.window_s,
        "lag_s": model.lag_s,
        "gain": model.calibration.gain if model.calibration.known else None,
        "offset_w": model.calibration.offset_w if model.calibration.known else None,
        "why": model.why,
    }


def _judged_fields(model: SensorModel, judged: Judged) -> dict[str, Any]:
    return {
        "load": "pulsed" if judged.pulsed else "steady",
        "span_s": judged.end_s - judged.start_s,
        "meter_j": judged.meter_j,
        "naive_j": judged.naive_j,
        "estimate_j": judged.estimate_j,
        "uncertainty_j": judged.uncertainty_j,
        "naive_error_ratio": judged.naive_ratio,
        "estimate_error_ratio": judged.estimate_ratio,
        "naive_by_second_ratio": judged.naive_by_second_ratio,
        "estimate_by_second_ratio": judged.estimate_by_second_ratio,
        "calibrated_on": model.calibration.origin,
        "quality": "estimated",
    }


# --- live ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Series:
    """Readings of one thing by one source."""

    kind: str
    time_s: list[float] = field(default_factory=list)
    power_w: list[float | None] = field(default_factory=list)
    energy_j: list[float | None] = field(default_factory=list)
    instant_w: list[float | None] = field(default_factory=list)
    busy_ratio: list[float | None] = field(default_factory=list)
    limit_w: float | None = None


Key = tuple[str, str]  # (thing, source)


def live(
    sources: Sequence[Source],
    *,
    seconds: float = LIVE_S,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[list[Check], list[dict[str, Any]]]:
    """(checks, one row per sensor) of the sources here."""
    present, checks = list[Any](), list[Check]()
    for source in sources:
        probe = source.probe()
        if probe.present:
            present.append(source)
        else:
            checks.append(Check(source.name, "note", f"nothing here: {probe.reason}"))
    series = _watched(present, seconds, monotonic, sleep, checks)
    rows = []
    for (thing, source_name), found in series.items():
        check, row = _sensor(thing, source_name, found)
        checks.append(check)
        rows.append(row)
    checks += _believed(series)
    if not series:
        checks.append(Check("sensors", "note", "no source here gives power; see `eo read list` for what can be read."))
    return checks, rows


def _watched(
    sources: Sequence[Source],
    seconds: float,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
    checks: list[Check],
) -> dict[Key, Series]:
    series: dict[Key, Series] = {}
    due = {source.name: 0.0 for source in sources}
    until = monotonic() + seconds
    while due and (now := monotonic()) < until:
        for source in sources:
            if now < due.get(source.name, until):
                continue
            try:
                reading = source.read(time.time_ns())
            except Exception as error:  # noqa: BLE001 - drivers raise what they like; the others go on
                del due[source.name]
                checks.append(Check(source.name, "warn", f"cannot be read: {error}"))
                continue
            due[source.name] = now + (SLOW_S if _slow(source.name) else 0.0)
            _take(series, reading, monotonic())
        sleep(PAUSE_S)
    return series


def _slow(name: str) -> bool:
    """Whether a source waits for a network or a program: asked once a second, it does not hold up the others."""
    from agents.node.sources.registry import SOURCES

    return name in SOURCES and SOURCES[name].slow


def _take(series: dict[Key, Series], reading: Reading, at_s: float) -> None:
    gpu = reading.gpu
    if gpu is not None and gpu.power_w is not None:
        for n, uuid in enumerate(gpu.uuid):
            energy = None if gpu.energy_mj is None else gpu.energy_mj[n]
            limit, instant, busy = (
                None if column is None else column[n] for column in (gpu.limit_w, gpu.power_instant_w, gpu.util_ratio)
            )
            found = _add(series, (uuid, reading.source), "gpu", at_s, gpu.power_w[n], energy, limit)
            found.instant_w[-1], found.busy_ratio[-1] = instant, busy
    if (domains := reading.domains) is not None:
        for n, name in enumerate(domains.name):
            owner = None if domains.gpu_uuid is None else domains.gpu_uuid[n]
            power = None if domains.power_w is None else domains.power_w[n]
            energy = None if domains.energy_mj is None else domains.energy_mj[n]
            _add(series, (owner or name, domains.source[n]), domains.kind[n], at_s, power, energy, None)


def _add(
    series: dict[Key, Series],
    key: Key,
    kind: str,
    at_s: float,
    power_w: float | None,
    energy_mj: int | None,
    limit_w: float | None,
) -> Series:
    found = series.setdefault(key, Series(kind))
    found.time_s.append(at_s)
    found.power_w.append(power_w)
    found.energy_j.append(None if energy_mj is None else energy_mj / 1e3)
    found.instant_w.append(None)
    found.busy_ratio.append(None)
    found.limit_w = limit_w or found.limit_w
    return found


def _sensor(thing: str, source: str, found: Series) -> tuple[Check, dict[str, Any]]:
    """One sensor: its period, its counter against its integral, and its window beside what moves with it."""
    import numpy as np

    from models.sensors.live import learn_live

    time_s = np.array(found.time_s)
    power_w, counter_j, instant_w, busy = (
        np.array([np.nan if value is None else value for value in column], dtype=np.float64)
        for column in (found.power_w, found.energy_j, found.instant_w, found.busy_ratio)
    )
    model = learn_live(time_s, power_w, counter_j=counter_j, instant_w=instant_w, busy_ratio=busy)
    belief = _counter_belief(found, time_s, power_w)
    mean_w = None if np.isnan(power_w).all() else round(float(np.nanmean(power_w)), 2)
    row = {
        "thing": thing, "source": source, "kind": found.kind, "mean_w": mean_w, "readings": len(time_s),
        **_fields(model), "energy_believed": belief.believed, "counter_apart_ratio": belief.disagreement_ratio,
        "reason": belief.reason, "quality": belief.quality,
    }  # fmt: skip
    watts = "no power" if mean_w is None else f"{mean_w:g} W"
    window = f"window {_ms(model.window_s)}, lag {_ms(model.lag_s)} ({model.why['window']})"
    text = f"{source}: {watts}; period {_ms(model.period_s)} ({model.why['period']}); {window}; {belief.reason}"
    return Check(thing, "ok" if mean_w is not None or belief.value is not None else "warn", text), row


def _counter_belief(found: Series, time_s: Any, power_w: Any) -> Any:
    from models.sensors import bounds, energy
    from models.sensors.counter import Counter, believe_counter

    kind: Any = found.kind if found.kind in bounds.MOST_W else "other"
    counter = Counter(kind=kind)
    for at, raw in zip(found.time_s, found.energy_j, strict=True):
        if raw is not None:
            counter.step(at, raw)
    known = sum(raw is not None for raw in found.energy_j) > 1
    start_s, end_s = float(time_s[0]), float(time_s[-1])
    integral_j = energy.naive(time_s, power_w, start_s=start_s, end_s=end_s)
    usable = None if integral_j != integral_j else integral_j
    return believe_counter(counter.total_j if known else None, usable, elapsed_s=end_s - start_s)


def _believed(series: Mapping[Key, Series]) -> list[Check]:
    """Things that several sources measure: who is believed, and why."""
    from models.sensors.reconcile import Witness, reconcile

    things: dict[str, list[Key]] = {}
    for thing, source in series:
        things.setdefault(thing, []).append((thing, source))
    checks = []
    for thing, keys in things.items():
        if len(keys) < 2:
            continue
        witnesses = [Witness(source=key[1], power_w=_mean(series[key].power_w)) for key in keys]
        limit_w = next((series[key].limit_w for key in keys if series[key].limit_w), None)
        belief = reconcile(witnesses, limit_w=limit_w)
        agrees = belief.disagreement_ratio is None or belief.disagreement_ratio <= 1.0
        checks.append(Check(f"{thing} believed", "ok" if agrees else "warn", belief.reason))
    return checks


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def sources_here(env: Mapping[str, str]) -> list[Source]:
    """The sources of power that the agent's settings name, and those that need no address; a wrong setting is an
    EoError."""
    from agents.node.errors import SettingsError
    from agents.node.settings import NodeSettings
    from agents.node.sources import registry

    try:
        settings = NodeSettings.from_env(env)
        named = [registry.canonical(name) for name in settings.sources]
        names = [name for name in (*named, *ALSO) if name in registry.SOURCES and name not in {"procfs", "replay"}]
        return [registry.make(name, settings.source_options(name)) for name in dict.fromkeys(names)]
    except SettingsError as error:
        raise EoError(f"{error}.") from error


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1e3:.0f} ms"


def _percent(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.1%}"
