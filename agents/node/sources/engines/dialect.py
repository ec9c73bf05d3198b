"""One engine's dialect: which metric names, old and new, mean which field, and in which unit. Data and its reader.

Names are compared without prefix and with "_" for ":" and ".", because engines, their forks and their exporters spell
"vllm:x", "vllm_x" and "x". The first name of a list that the text has is taken: the newest and most exact one is first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agents.node.sources.engines.cumulative import MOST_COUNT, Cumulative, cumulative
from agents.node.sources.prom_text import Sample

MODEL_LABELS: Final = ("model_name", "served_model_name", "model", "model_id")
# A replica of Ray Serve, or one of several servers in a federated text: an engine of its own.
RANK_LABELS: Final = ("instance", "ReplicaId", "WorkerId")
RANKS: Final = frozenset(RANK_LABELS)
# Data-parallel cores of one server share its GPUs' settings, its queue and its name: their numbers are added up.
CORE_LABELS: Final = ("engine", "engine_id", "engine_index", "dp_rank", "dp")
# The same number from every worker of one replica: the largest, not their sum.
TWIN_LABELS: Final = ("tp_rank", "pp_rank", "tp", "pp", "moe_ep_rank", "pid")
GAUGES: Final = ("running", "waiting", "waiting_tokens", "kv_tokens", "kv_use_ratio")
COUNTERS: Final = ("prompt_tokens_total", "generation_tokens_total", "requests_total")
HISTOGRAMS: Final = ("ttft", "tbt", "e2e")
FIELDS: Final = (*GAUGES, *COUNTERS, *HISTOGRAMS)
MOST_NAMES: Final = 20_000
MOST_LINES: Final = 100_000  # a hostile text of line feeds must not cost a second
Key = tuple[str, str | None]  # model, rank
MOST_ENGINES: Final = 256  # models and ranks of one text; more is no server


@dataclass(frozen=True, slots=True)
class Pick:
    """A metric of that name whose labels have these values; `factor` turns its unit into the contract's."""

    name: str
    where: Mapping[str, str] = field(default_factory=dict)
    factor: float = 1.0

    def __str__(self) -> str:
        labels = ", ".join(f'{key}="{value}"' for key, value in self.where.items())
        return f"{self.name}{{{labels}}}" if labels else self.name


Names = tuple[Pick, ...]


def names(*found: str, factor: float = 1.0) -> Names:
    """Picks without conditions."""
    return tuple(Pick(name, {}, factor) for name in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one engine's text says.

    Attributes:
        kind: the engine's name in the contract.
        title: for sentences.
        prefixes: of its metric names, with "_" at the end; "" accepts bare names too.
        values: field -> names, in order of preference.
        absent: field -> why this engine never gives it.
        derive: fills fields from others, e.g. tokens from blocks; it gets the group and what was read so far.
        steady: counters move at each step of a busy engine, so that one that stands still is stuck.
        also: names that only `derive` reads.
        groups_by: further labels that make an engine of its own, e.g. a model's version.
    """

    kind: str
    title: str
    prefixes: tuple[str, ...]
    values: Mapping[str, Names]
    absent: Mapping[str, str] = field(default_factory=dict)
    derive: Callable[[Group, Values], None] | None = None
    steady: bool = False
    also: tuple[str, ...] = ()
    groups_by: tuple[str, ...] = ()

    @property
    def bases(self) -> frozenset[str]:
        """Every name that is read, without the endings of counters and histograms."""
        return frozenset(_base(pick.name) for picks in self.values.values() for pick in picks) | frozenset(self.also)


@dataclass(slots=True)
class Values:
    """Everything read of one engine: numbers, histograms since its start, and why a field is missing."""

    model: str
    rank: str | None
    number: dict[str, float | None] = field(default_factory=dict)
    histogram: dict[str, Cumulative | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    gpu_uuid: tuple[str, ...] = ()
    ts_ms: float | None = None  # the engine's own stamp, if it gave one
    cores: dict[str, tuple[float, float]] = field(default_factory=dict)  # data-parallel core -> (running, counted)

    def say(self, name: str, value: float | None) -> None:
        """Gives a field a derived value where it has none."""
        if self.number.get(name) is None and value is not None and math.isfinite(value) and value >= 0:
            self.number[name] = value
            self.missing.pop(name, None)


class Group:
    """The samples of one engine by plain name."""

    def __init__(self, samples: Mapping[str, list[Sample]], everything: Mapping[str, list[Sample]]) -> None:
        self._samples, self._everything = samples, everything

    def sum(self, pick: Pick) -> float | None:
        """Added over labels that are no rank of one replica, times the factor; None when it is not there."""
        return self._folded(pick, sum)

    def most(self, pick: Pick) -> float | None:
        """The largest: for ratios, which do not add up."""
        return self._folded(pick, max)

    def label(self, name: str, label: str) -> float | None:
        """A number that stands in a label of an info metric, of this group or of the whole text."""
        for sample in self._samples.get(name) or self._everything.get(name) or []:
            try:
                return float(sample.labels[label])
            except (KeyError, ValueError):
                continue
        return None

    def values_of(self, name: str, label: str) -> tuple[str, ...]:
        """All values of a label in the whole text, in order."""
        return tuple(dict.fromkeys(s.labels[label] for s in self._everything.get(name, []) if label in s.labels))

    def cores(self, running: Names, counters: Names) -> dict[str, tuple[float, float]]:
        """(requests that run, what its counters have counted) of each data-parallel core that series name."""
        busy, counted = self._by_core(running), self._by_core(counters)
        return {core: (busy[core], counted[core]) for core in busy.keys() & counted.keys()}

    def _by_core(self, picks: Names) -> dict[str, float]:
        found: dict[str, float] = {}
        for sample in [sample for pick in picks for sample in self._chosen(pick)]:
            core = next((sample.labels[label] for label in CORE_LABELS if label in sample.labels), None)
            if core is not None and math.isfinite(sample.value):
                found[core] = found.get(core, 0.0) + sample.value
        return found

    def stamp_ms(self) -> float | None:
        """The newest time stamp of the engine's own."""
        stamps = [s.ts_ms for found in self._samples.values() for s in found if s.ts_ms is not None]
        return max(stamps, default=None)

    def histogram(self, pick: Pick) -> Cumulative | None:
        """All series of one histogram added up."""
        buckets: dict[float, float] = {}
        for sample in self._chosen(pick, "_bucket"):
            edge = _number(sample.labels.get("le", ""))
            if edge is not None and not math.isnan(edge):
                buckets[edge] = buckets.get(edge, 0.0) + sample.value
        if not buckets:
            return None
        count = self._total(pick, "_count")
        return cumulative(buckets, count=count, total=self._total(pick, "_sum"), factor=pick.factor)

    def _total(self, pick: Pick, ending: str) -> float | None:
        chosen = self._chosen(pick, ending)
        return sum(s.value for s in chosen) if chosen else None

    def _folded(self, pick: Pick, fold: Callable[[Iterable[float]], float]) -> float | None:
        parts: dict[tuple[tuple[str, str], ...], float] = {}
        for sample in self._chosen(pick):
            if math.isfinite(sample.value) and sample.value >= 0:
                key = tuple(sorted(item for item in sample.labels.items() if item[0] not in TWIN_LABELS))
                parts[key] = max(parts.get(key, 0.0), sample.value)
        return fold(parts.values()) * pick.factor if parts else None

    def _chosen(self, pick: Pick, ending: str = "") -> list[Sample]:
        found = self._samples.get(pick.name + ending) or ([] if ending else self._samples.get(pick.name + "_total", []))
        if not pick.where:
            return found
        return [s for s in found if all(s.labels.get(key) == value for key, value in pick.where.items())]


def read(dialect: Dialect, samples: Sequence[Sample]) -> list[Values]:
    """Every engine in a text, in order of model and rank; empty when the text has none of the dialect's metrics."""
    mine = _mine(dialect, samples)
    everything: dict[str, list[Sample]] = {}
    for name, sample, _ in mine:
        everything.setdefault(name, []).append(sample)
    keys = _keys(dialect, mine)
    apart = {model for model, rank in keys if rank is not None}
    groups: dict[Key, dict[str, list[Sample]]] = {key: {} for key in keys}
    for name, sample, (model, rank) in mine:
        if (group := groups.get((model, rank if model in apart else None))) is not None:
            group.setdefault(name, []).append(sample)
    return [_values(dialect, Group(group, everything), *key) for key, group in groups.items()]


def relevant(dialect: Dialect, text: bytes, known: dict[bytes, bool]) -> tuple[bytes, bool]:
    """(text, whether it was cut at the bound): the lines that the dialect reads, and those that are no samples at all.

    The latter are told as malformed. An engine's text has ten times what is read of it, and parsing the rest costs a
    node more than all else here. `known` keeps the verdict on each name from text to text.
    """
    bases = dialect.bases
    if len(known) > MOST_NAMES:
        known.clear()
    lines = text.split(b"\n", MOST_LINES)
    cut = len(lines) > MOST_LINES
    kept = []
    for line in lines[:-1]:
        end = line.find(b"{")
        name = line[: end if end >= 0 else line.find(b" ")]
        if (keep := known.get(name)) is None:
            keep = known[name] = _keep(dialect, name, bases)
        if keep:
            kept.append(line)
    return b"\n".join([*kept, b"" if cut else lines[-1]]), cut


def _keep(dialect: Dialect, name: bytes, bases: frozenset[str]) -> bool:
    word = name.decode("utf-8", "replace").strip()
    if word.startswith("#"):
        return word.startswith("# EOF")
    if not word.replace(":", "_").replace(".", "_").isidentifier():
        return bool(word)  # no name at all: the parser says so
    found = plain(word, dialect.prefixes)
    return found is not None and _base(found) in bases


def plain(name: str, prefixes: Sequence[str]) -> str | None:
    """A metric's name without prefix, "_" for ":" and "."; None when it has none of the prefixes."""
    text = name.replace(":", "_").replace(".", "_")
    for prefix in prefixes:
        if text.startswith(prefix):
            return text[len(prefix) :]
    return None


def _mine(dialect: Dialect, samples: Sequence[Sample]) -> list[tuple[str, Sample, Key]]:
    known: dict[str, str | None] = {}
    found = []
    for sample in samples:
        if sample.name not in known:
            known[sample.name] = plain(sample.name, dialect.prefixes)
        name = known[sample.name]
        if name is not None:
            found.append((name, sample, _key(dialect, sample)))
    return found


def _keys(dialect: Dialect, mine: Sequence[tuple[str, Sample, Key]]) -> list[Key]:
    """Each engine. Ranks stand apart only where every metric of the model that we use has one."""
    wanted = dialect.bases - frozenset(dialect.also)
    ranked: dict[str, set[str | None]] = {}
    for name, _, (model, rank) in mine:
        if _base(name) in wanted:
            ranked.setdefault(model, set()).add(rank)
    keys: list[Key] = []
    for model, ranks in ranked.items():
        apart = None not in ranks and len(ranks) > 1
        keys += [(model, rank) for rank in sorted(ranks, key=_natural)] if apart else [(model, None)]
    return keys[:MOST_ENGINES]


def _natural(rank: str | None) -> tuple[int, str]:
    return (len(rank or ""), rank or "")


def _base(name: str) -> str:
    for ending in ("_bucket", "_sum", "_count", "_total"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def _key(dialect: Dialect, sample: Sample) -> Key:
    labels = sample.labels
    model = next((labels[label] for label in MODEL_LABELS if label in labels), "")
    extra = [labels[label] for label in dialect.groups_by if label in labels]
    ranks = [labels[label] for label in labels.keys() & RANKS]
    return ":".join(filter(None, [model, *extra])), "/".join(sorted(ranks, reverse=True)) or None


def _values(dialect: Dialect, group: Group, model: str, rank: str | None) -> Values:
    values = Values(model, rank, ts_ms=group.stamp_ms())
    for name in FIELDS:
        picks = dialect.values.get(name, ())
        if name in HISTOGRAMS:
            values.histogram[name] = next((h for pick in picks if (h := group.histogram(pick)) is not None), None)
            known = values.histogram[name] is not None
        else:
            fold = group.most if name == "kv_use_ratio" else group.sum
            values.number[name] = next((n for pick in picks if (n := fold(pick)) is not None), None)
            known = values.number[name] is not None
        if not known:
            values.missing[name] = dialect.absent.get(name) or _why(dialect, picks)
    if dialect.steady:
        counters = tuple(pick for name in COUNTERS for pick in dialect.values.get(name, ()))
        values.cores = group.cores(dialect.values.get("running", ()), counters)
    if dialect.derive is not None:
        dialect.derive(group, values)
    _bounded(values)
    return values


def _why(dialect: Dialect, picks: Names) -> str:
    if not picks:
        return f"{dialect.title} does not publish it"
    named = ", ".join(f"{_written(dialect, pick)}{pick}" for pick in picks)
    return f"the text has no usable value of {named}"


def _written(dialect: Dialect, pick: Pick) -> str:
    """The prefix that the engine writes before it: behind Triton, names of TensorRT-LLM begin with "nv_"."""
    return "nv_" if pick.name.startswith(("trt_llm_", "inference_", "llm_")) else dialect.prefixes[0]


def _bounded(values: Values) -> None:
    """What cannot be is unknown, with its reason: shares above 1, counts beyond what a double holds exactly."""
    ratio = values.number.get("kv_use_ratio")
    if ratio is not None and ratio > 1.0:
        values.number["kv_use_ratio"] = None
        values.missing["kv_use_ratio"] = "the value is above 1, which no share can be: a per cent or another unit"
    for name, number in values.number.items():
        if number is not None and number > MOST_COUNT:
            values.number[name] = None
            values.missing[name] = f"the value is above {MOST_COUNT}, which no counter of an engine reaches"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def waiting_tokens(values: Values, mean_prompt_tokens: float | None) -> None:
    """Prompt tokens in the queue: requests that wait times the mean prompt, rounded up. None wait: none are there."""
    waiting = values.number.get("waiting")
    if waiting == 0:
        values.say("waiting_tokens", 0.0)
    elif waiting is not None and mean_prompt_tokens is not None:
        tokens = waiting * mean_prompt_tokens
        values.say("waiting_tokens", math.ceil(tokens) if math.isfinite(tokens) else None)


def mean(total: float | None, count: float | None) -> float | None:
    """total / count; None without both, or for a count of zero."""
    return total / count if total is not None and count else None
