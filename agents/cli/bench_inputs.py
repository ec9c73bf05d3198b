"""Workloads of `eo bench control`: the traces that ship, or the user's own CSV files. Reads files, decides nothing."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from agents.cli.base import USAGE, EoError

if TYPE_CHECKING:
    from models.bench.load import Curve, Lengths, Stream

SIGMA_OVER_BAND: Final = 1.3  # a one-minute mean shows 0.86 of the modulation, and a plotted line hides some of it
PLAIN_SIGMA: Final = 0.10  # for a rate curve that says nothing of its bursts
MOST_RATE: Final = 1e6  # requests per second; a curve is thinned to what 20 replicas take anyway
THIN_S: Final = 30.0  # a mean gap beyond it, for days, looks like milliseconds
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
LENGTH_COLUMNS: Final = ("quantity", "cdf", "tokens")
QUANTITIES: Final = ("input_tokens", "output_tokens")


@dataclass(frozen=True)
class Workload:
    """A rate curve (days, lengths) or recorded requests; exactly one of both is set."""

    name: str
    curve: Curve | None = None
    stream: Stream | None = None


def workload(args: Any, *, kv_limit: float) -> Workload:
    """What the arguments name; EoError with the nearest name or the line that is wrong."""
    given = [name for name in ("workload", "requests", "rates") if getattr(args, name) is not None]
    if len(given) != 1:
        raise EoError("give exactly one of --workload NAME, --requests FILE and --rates FILE", USAGE)
    try:
        if args.requests is not None:
            return Workload(args.requests.name, stream=_requests(args.requests, kv_limit))
        if args.rates is not None:
            return Workload(args.rates.name, curve=_rates(args.rates, _own_lengths(args, kv_limit)))
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
        rows = _columns(path, ("t_s", f"{service}_rpm", f"{service}_rpm_std"))
    t_s, rpm, band = (np.array(column) for column in rows)
    return Curve(t_s, rpm / 60.0, _azure_lengths(service), SIGMA_OVER_BAND * float(np.median(band / rpm)))


def _azure_lengths(service: str) -> Lengths:
    with _data("azure2024_lengths_cdf.csv") as path:
        return _lengths(path, service)


def _lengths(path: Path, service: str | None = None) -> Lengths:
    """Distribution of input_tokens and output_tokens; a column `service` chooses among several."""
    from models.bench.load import Lengths

    of_service = _length_rows(path)
    chosen = of_service[_service(path, list(of_service), service)]
    return Lengths(*(column for quantity in QUANTITIES for column in _distribution(path, quantity, chosen[quantity])))


def _length_rows(path: Path) -> dict[str | None, dict[str, list[tuple[float, float]]]]:
    """(cdf, tokens) by service and quantity; the service is None in a file without that column."""
    found: dict[str | None, dict[str, list[tuple[float, float]]]] = {}
    with _opened(path, LENGTH_COLUMNS) as file:
        reader = csv.DictReader(file)
        _need(path, reader.fieldnames, LENGTH_COLUMNS)
        several = "service" in (reader.fieldnames or ())
        for number, row in enumerate(reader, start=2):
            quantity = row["quantity"]
            if quantity not in QUANTITIES:
                raise ValueError(
                    f"{path} line {number}: quantity {quantity!r} is neither input_tokens nor output_tokens; "
                    "write one of the two or take the line out"
                )
            service = (row["service"] or "") if several else None
            rows = found.setdefault(service, {name: [] for name in QUANTITIES})[quantity]
            rows.append((_number(path, number, row["cdf"]), _tokens(path, number, row["tokens"])))
    if not found:
        raise ValueError(f"{path} has no rows; give at least 2 of each quantity (columns {', '.join(LENGTH_COLUMNS)})")
    return found


def _tokens(path: Path, line: int, text: str | None) -> float:
    value = _number(path, line, text)
    if value < 0.0:
        raise ValueError(f"{path} line {line}: {value:g} tokens is below 0; correct the line or take it out")
    return value


def _service(path: Path, there: list[str | None], wanted: str | None) -> str | None:
    """Which one is meant: the one that is named, or the only one."""
    names = ", ".join(repr(one) for one in there if one is not None)
    if wanted is None:
        if len(there) > 1:
            raise ValueError(
                f"{path} holds the lengths of {len(there)} services ({names}); choose one with --lengths-service NAME"
            )
        return there[0]
    if there == [None]:
        raise ValueError(f"{path} has no column 'service' to find {wanted!r} in; leave --lengths-service out")
    if wanted not in there:
        raise ValueError(f"{path} has no service {wanted!r}; --lengths-service takes one of {names}")
    return wanted


def _distribution(path: Path, quantity: str, rows: list[tuple[float, float]]) -> tuple[Any, Any]:
    """Shares and tokens, both rising."""
    import numpy as np

    if len(rows) < 2:
        raise ValueError(
            f"{path} has {len(rows)} rows of {quantity}; give at least 2 (columns {', '.join(LENGTH_COLUMNS)})"
        )
    share, tokens = np.array(sorted(rows)).T
    if share[0] < 0.0 or share[-1] > 1.0 + 1e-9 or np.any(np.diff(tokens) < 0):
        raise ValueError(
            f"{path}: {quantity} is no distribution function; cdf must lie in 0..1 and tokens must not fall"
        )
    return share, tokens


def _own_lengths(args: Any, kv_limit: float) -> Lengths:
    """Of --lengths, within what one replica takes; without it, those of the Azure 2024 conversation service."""
    if args.lengths is None:
        return _azure_lengths("conversation")
    lengths = replace(_lengths(args.lengths, args.lengths_service), kv_limit=kv_limit)
    if lengths.means() == (0.0, 0.0):
        raise ValueError(
            f"{args.lengths}: no request of these lengths fits the KV limit of {kv_limit:.0f} tokens "
            f"({lengths.prompt_tokens[0]:,.0f} + {lengths.output_tokens[0]:,.0f} at least); give shorter ones"
        )
    return lengths


def _rates(path: Path, lengths: Lengths) -> Curve:
    import numpy as np

    from models.bench.load import Curve, check_span

    t_s, rate = (np.array(column) for column in _columns(path, RATE_COLUMNS))
    if len(t_s) < 2:
        raise ValueError(f"{path} has {len(t_s)} rows; give at least 2")
    check_span(t_s, str(path))
    if t_s.min() == t_s.max():
        raise ValueError(
            f"{path} has all its {len(t_s)} rates at one time, {t_s[0]:.10g} s; give at least 2 different times, "
            "in seconds"
        )
    order = np.argsort(t_s, kind="stable")
    t_s, rate = t_s[order] - t_s[order[0]], rate[order]
    if rate.min() < 0.0:
        raise ValueError(f"{path} has a rate of {rate.min():g} requests/s; rates are 0 or more")
    if rate.max() > MOST_RATE:
        raise ValueError(
            f"{path} has a rate of {rate.max():g} requests/s, over the bound of {MOST_RATE:,.0f}; give requests per "
            "second, not per day"
        )
    if rate.max() <= 0.0:
        raise ValueError(f"{path} has no rate above 0; nothing would be served")
    return Curve(t_s, rate, lengths, PLAIN_SIGMA)


def _requests(path: Path, kv_limit: float) -> Stream:
    import numpy as np

    from models.bench.load import DAY_S, recorded

    columns = (np.array(c) for c in _columns(path, REQUEST_COLUMNS, tolerant=True))
    found = recorded(*columns, kv_limit=kv_limit)
    gap_s = found.seconds / len(found.arrival_s)
    if found.seconds > DAY_S and gap_s > THIN_S:  # may be true: said, not refused
        print(
            f"  {path.name} has one request in {gap_s:,.0f} s over {found.seconds / DAY_S:,.1f} days; timestamps are "
            "in seconds, so divide milliseconds by 1,000",
            file=sys.stderr,
        )
    return found


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


def _columns(path: Path, names: tuple[str, ...], *, tolerant: bool = False) -> list[list[float]]:
    """Named columns as floats; what cannot be read is NaN where the caller counts it, else an error with its line."""
    columns: list[list[float]] = [[] for _ in names]
    with _opened(path, names) as file:
        reader = csv.DictReader(file)
        _need(path, reader.fieldnames, names)
        for number, row in enumerate(reader, start=2):
            for column, name in zip(columns, names, strict=True):
                column.append(_number(path, number, row[name], tolerant=tolerant))
    return columns


def _opened(path: Path, names: tuple[str, ...]) -> TextIO:
    """The file; one that is not there or may not be read is said with what it should hold."""
    wanted = f"give the path of a CSV with the columns {', '.join(names)}"
    if not path.is_file():
        raise EoError(f"{path} is not a file; {wanted}", USAGE)
    try:
        return path.open(newline="", encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise EoError(f"{path} cannot be read ({error.strerror}); {wanted}", USAGE) from error


def _need(path: Path, have: Any, names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in (have or ())]
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]!r}; its first line must name {', '.join(names)}")


def _number(path: Path, line: int, text: str | None, *, tolerant: bool = False) -> float:
    from math import isfinite, nan

    try:
        value = float(text or "")
    except ValueError:
        value = nan
    if isfinite(value) or tolerant:
        return value
    raise ValueError(f"{path} line {line}: {text or ''!r} is not a number; correct the line or take it out")
