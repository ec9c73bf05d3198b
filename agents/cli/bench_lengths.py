"""Distributions of prompt and output tokens from CSV files: cdf and tokens by quantity, of one service or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.table_file import NoTable, rows
from agents.cli.table_numbers import number

if TYPE_CHECKING:
    from models.bench.load import Lengths

LENGTH_COLUMNS: Final = ("quantity", "cdf", "tokens")
QUANTITIES: Final = ("input_tokens", "output_tokens")
ENDS: Final = (0.05, 0.95)  # published tables of percentiles begin at p1 or p5 and end at p95, p99 or beyond


def read_lengths(path: Path, service: str | None = None) -> Lengths:
    """Distribution of input_tokens and output_tokens; a column `service` chooses among several."""
    from models.bench.load import Lengths

    of_service = _length_rows(path)
    chosen = of_service[_service(path, list(of_service), service)]
    return Lengths(*(column for quantity in QUANTITIES for column in _distribution(path, quantity, chosen[quantity])))


def beyond_ends(path: Path, lengths: Lengths) -> list[str]:
    """What is drawn where a distribution is known only within the bounds of `ENDS`, a sentence for each end."""
    said = []
    parts = ((lengths.prompt_share, lengths.prompt_tokens), (lengths.output_share, lengths.output_tokens))
    for quantity, (share, tokens) in zip(QUANTITIES, parts, strict=True):
        for at, where in ((0, "begins"), (-1, "ends")):
            outside = abs(float(share[at]) - (0.0 if at == 0 else 1.0))
            if outside > 1e-6:
                said.append(
                    f"{quantity} of {path.name} {where} at cdf {share[at]:g}; the {outside:.2%} of the requests beyond "
                    f"it are drawn with {tokens[at]:,.0f} tokens"
                )
    return said


def _length_rows(path: Path) -> dict[str | None, dict[str, list[tuple[float, float]]]]:
    """(cdf, tokens) by service and quantity; the service is None in a file without that column."""
    found: dict[str | None, dict[str, list[tuple[float, float]]]] = {}
    for line, (quantity, cdf, tokens, service), over in rows(path, LENGTH_COLUMNS, "service"):
        if over:
            raise NoTable(
                f"{path} line {line}: {over} more values than columns; write numbers without separators, such as 1000.5"
            )
        if quantity not in QUANTITIES:
            raise NoTable(
                f"{path} line {line}: quantity {(quantity or '')[:60]!r} is neither input_tokens nor output_tokens; "
                "write one of the two or take the line out"
            )
        of_quantity = found.setdefault(service, {name: [] for name in QUANTITIES})[quantity]
        of_quantity.append((number(path, line, "cdf", cdf), number(path, line, "tokens", tokens)))
    if not found:
        raise NoTable(f"{path} has no rows; give at least 2 of each quantity (columns {', '.join(LENGTH_COLUMNS)})")
    return found


def _service(path: Path, there: list[str | None], wanted: str | None) -> str | None:
    """Which one is meant: the one that is named, or the only one."""
    names = ", ".join(repr(one) for one in there if one is not None)
    if wanted is None:
        if len(there) > 1:
            raise NoTable(
                f"{path} holds the lengths of {len(there)} services ({names}); choose one with --lengths-service NAME"
            )
        return there[0]
    if there == [None]:
        raise NoTable(f"{path} has no column 'service' to find {wanted!r} in; leave --lengths-service out")
    if wanted not in there:
        raise NoTable(f"{path} has no service {wanted!r}; --lengths-service takes one of {names}")
    return wanted


def _distribution(path: Path, quantity: str, pairs: list[tuple[float, float]]) -> tuple[Any, Any]:
    """Shares and tokens, both rising, from near 0 to near 1."""
    import numpy as np

    if len(pairs) < 2:
        raise NoTable(
            f"{path} has {len(pairs)} rows of {quantity}; give at least 2 (columns {', '.join(LENGTH_COLUMNS)})"
        )
    share, tokens = np.array(sorted(pairs)).T
    if share[0] < 0.0 or share[-1] > 1.0 + 1e-9 or np.any(np.diff(tokens) < 0):
        raise NoTable(
            f"{path}: {quantity} is no distribution function; cdf must lie in 0..1 (it runs from {share[0]:g} to "
            f"{share[-1]:g}) and tokens must not fall"
        )
    if share[0] > ENDS[0] or share[-1] < ENDS[1]:
        raise NoTable(
            f"{path}: cdf of {quantity} runs from {share[0]:g} to {share[-1]:g}; it must begin at {ENDS[0]:g} or below "
            f"and end at {ENDS[1]:g} or above, so add the rows of the fewest tokens (cdf 0) and of the most (cdf 1)"
        )
    return share, tokens
