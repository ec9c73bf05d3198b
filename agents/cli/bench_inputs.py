"""Workloads of `eo bench control`: the traces that ship, or the user's own CSV files. Reads files, decides nothing."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.base import USAGE, EoError
from agents.cli.bench_lengths import beyond_ends, read_lengths
from agents.cli.table_numbers import Numbers, numbers

if TYPE_CHECKING:
    from models.bench.load import Curve, Lengths, Stream

SIGMA_OVER_BAND: Final = 1.3  # a one-minute mean shows 0.86 of the modulation, and a plotted line hides some of it
PLAIN_SIGMA: Final = 0.10  # for a rate curve that says nothing of its bursts
MOST_RATE: Final = 1e6  # requests per second; a curve is thinned to what 20 replicas take anyway
THIN_S: Final = 30.0  # a mean gap of requests beyond it, for days, looks like milliseconds
THIN_RATES_S: Final = 7_200.0  # and so do rates further apart than this
WIDE_GAP: Final = 10.0  # times the usual gap of a rate curve, and an hour or more: said
SHIPPED: Final = (
    "azure-code-2024",
    "azure-conv-2024",
    "azure-code-2023",
    "azure-conv-2023",
    "servegen-m-large",
    "servegen-m-small",
)
REQUEST_COLUMNS: Final = ("timestamp_s", "input_tokens", "output_tokens")
RATE_COLUMNS: Final = ("timestamp_s", "requests_per_s")


@dataclass(frozen=True)
class Workload:
    """A rate curve (days, lengths) or recorded requests; exactly one of both is set. `warnings`: whole sentences."""

    name: str
    curve: Curve | None = None
    stream: Stream | None = None
    warnings: tuple[str, ...] = ()


def workload(args: Any, *, kv_limit: float) -> Workload:
    """What the arguments name; EoError with the nearest name or the line that is wrong."""
    given = [name for name in ("workload", "requests", "rates") if getattr(args, name) is not None]
    if len(given) != 1:
        raise EoError("give exactly one of --workload NAME, --requests FILE and --rates FILE", USAGE)
    try:
        if args.requests is not None:
            return _requests(args.requests, kv_limit)
        if args.rates is not None:
            return _rates(args.rates, args.lengths, _own_lengths(args, kv_limit))
        return _shipped(args.workload, kv_limit)
    except csv.Error as error:
        raise EoError(
            f"{_file(args)} is no CSV file ({error}); write it as plain comma-separated text", USAGE
        ) from error
    except ValueError as error:
        raise EoError(str(error), USAGE) from error


def _file(args: Any) -> str:
    return " or ".join(str(one) for one in (args.requests, args.rates, args.lengths) if one is not None)


def _shipped(name: str, kv_limit: float) -> Workload:
    if name in ("azure-code-2024", "azure-conv-2024"):
        return Workload(name, curve=_azure_week("code" if "code" in name else "conversation"))
    if name in ("azure-code-2023", "azure-conv-2023"):
        return Workload(name, stream=_azure_2023(name, kv_limit))
    if name.startswith("servegen-"):
        return Workload(name, curve=_servegen(name.removeprefix("servegen-")))
    import difflib

    near = difflib.get_close_matches(name, SHIPPED, 1)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(SHIPPED)}."
    raise EoError(f"no workload is called {name!r}; {hint}", USAGE)


def _data(name: str, package: str = "agents.cli", folder: str = "bench_data") -> Any:
    return resources.as_file(resources.files(package).joinpath(folder, name))


def _azure_week(service: str) -> Curve:
    import numpy as np

    from models.bench.load import Curve

    with _data("azure2024_arrivals.csv") as path:
        rows = numbers(path, ("t_s", f"{service}_rpm", f"{service}_rpm_std")).columns
    t_s, rpm, band = (np.array(column) for column in rows)
    return Curve(t_s, rpm / 60.0, _azure_lengths(service), SIGMA_OVER_BAND * float(np.median(band / rpm)))


def _azure_lengths(service: str) -> Lengths:
    with _data("azure2024_lengths_cdf.csv") as path:
        return read_lengths(path, service)


def _own_lengths(args: Any, kv_limit: float) -> Lengths:
    """Of --lengths, within what one replica takes; without it, those of the Azure 2024 conversation service."""
    if args.lengths is None:
        return _azure_lengths("conversation")
    lengths = replace(read_lengths(args.lengths, args.lengths_service), kv_limit=kv_limit)
    if lengths.means() == (0.0, 0.0):
        raise ValueError(
            f"{args.lengths}: no request of these lengths fits the KV limit of {kv_limit:.0f} tokens "
            f"({lengths.prompt_tokens[0]:,.0f} + {lengths.output_tokens[0]:,.0f} at least); give shorter ones"
        )
    return lengths


def _rates(path: Path, lengths_path: Path | None, lengths: Lengths) -> Workload:
    import numpy as np

    from models.bench.load import Curve
    from models.bench.spans import check_epoch, check_span

    t_s, rate = (np.array(column) for column in numbers(path, RATE_COLUMNS).columns)
    if len(t_s) < 2:
        raise ValueError(f"{path} has {len(t_s)} rows; give at least 2")
    check_epoch(t_s, str(path))
    check_span(t_s, str(path))
    if t_s.min() == t_s.max():
        raise ValueError(
            f"{path} has all its {len(t_s)} rates at one time, {t_s[0]:.10g} s; give at least 2 different times, "
            "in seconds"
        )
    order = np.argsort(t_s, kind="stable")
    rate = rate[order]
    if rate.min() < 0.0:
        raise ValueError(f"{path} has a rate of {rate.min():g} requests/s; rates are 0 or more")
    if rate.max() > MOST_RATE:
        raise ValueError(
            f"{path} has a rate of {rate.max():g} requests/s, over the bound of {MOST_RATE:,.0f}; give requests per "
            "second, not per day"
        )
    if rate.max() <= 0.0:
        raise ValueError(f"{path} has no rate above 0; nothing would be served")
    said = _gaps(path, t_s[order]) + ([] if lengths_path is None else beyond_ends(lengths_path, lengths))
    return Workload(path.name, curve=Curve(t_s[order] - t_s.min(), rate, lengths, PLAIN_SIGMA), warnings=tuple(said))


def _gaps(path: Path, t_s: Any) -> list[str]:
    """Times that may be meant otherwise, and hours of which nothing is known; `t_s` rises."""
    from models.bench.spans import usual_gap_s, widest_gap

    usual, (before, after) = usual_gap_s(t_s), widest_gap(t_s)
    if usual > THIN_RATES_S:
        return [
            f"{path.name} has one rate in {usual:,.0f} s; timestamps are in seconds, so divide milliseconds by 1,000"
        ]
    if after - before > max(WIDE_GAP * usual, 3600.0):
        return [
            f"{path.name} has no rate from {before:.10g} to {after:.10g} s ({(after - before) / 3600.0:,.1f} h); "
            "a straight line is taken between them"
        ]
    return []


def _requests(path: Path, kv_limit: float) -> Workload:
    import numpy as np

    from models.bench.load import recorded
    from models.bench.spans import DAY_S

    read = numbers(path, REQUEST_COLUMNS, tolerant=True)
    if read.rows - read.bad < 2:
        raise ValueError(_too_few(path, read))
    found = recorded(*(np.array(column) for column in read.columns), kv_limit=kv_limit, what=str(path))
    said = [f"{read.bad} of {read.rows} rows of {path.name} are left out; the first: {read.first_bad}"] * bool(read.bad)
    gap_s = found.seconds / len(found.arrival_s)
    if found.seconds > DAY_S and gap_s > THIN_S:  # may be true: said, not refused
        said.append(
            f"{path.name} has one request in {gap_s:,.0f} s over {found.seconds / DAY_S:,.1f} days; timestamps are "
            "in seconds, so divide milliseconds by 1,000"
        )
    return Workload(path.name, stream=found, warnings=tuple(said))


def _too_few(path: Path, read: Numbers) -> str:
    first = f" ({read.first_bad})" if read.bad else ""
    return (
        f"{path} holds {read.rows - read.bad} readable requests in {read.rows} rows{first}; give at least 2, with "
        "timestamp_s in seconds or ISO 8601 and whole numbers of tokens"
    )


def _azure_2023(name: str, kv_limit: float) -> Stream:
    import numpy as np
    import pyarrow.parquet as pq

    from models.bench.load import recorded

    code = "code" in name
    where = ("azure2023_code_first.parquet",) if code else ("azure2023_conv_first.parquet", "agents.fleet", "traces")
    with _data(*where) as path:
        table = pq.read_table(path)
    t_s = table["timestamp"].to_numpy().astype("datetime64[ns]").astype(np.int64) / 1e9
    prompt, output = (table[c].to_numpy().astype(np.float64) for c in ("context_tokens", "generated_tokens"))
    return recorded(t_s, prompt, output, kv_limit=kv_limit)


def _servegen(model: str) -> Curve:
    import numpy as np
    import pyarrow.parquet as pq

    from models.bench.load import Curve

    with _data("servegen_rate_week1.parquet") as path:
        table = pq.read_table(path).to_pydict()
    rows = np.array(table["model"]) == model
    if not rows.any():
        raise EoError(f"ServeGen has no model {model!r} here; one of {', '.join(sorted(set(table['model'])))}.", USAGE)
    t_s, rate = (np.array(table[c], dtype=np.float64)[rows] for c in ("t_s", "rate_rps"))
    return Curve(t_s + 300.0, rate, _azure_lengths("conversation"), PLAIN_SIGMA)
