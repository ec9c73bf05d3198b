"""Questions to the archive from the API: shipped queries in a small thread pool, each under a row and a time limit.

An answer is kept for some seconds, since the archive only changes when its job writes a file. It never writes.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from agents.cli import sql_run
from agents.cli.base import EoError
from agents.cli.sql_run import Answer
from agents.gateway.problems import Problem

Key = tuple[str, tuple[tuple[str, str | int | float], ...], int]
T = TypeVar("T")
WORKERS: Final = 2
WAITING: Final = 16  # questions in the pool and before it; more are turned away
KEEP_S: Final = 5.0
KEEP: Final = 64


class ArchiveDoor:
    """Asks one archive. `close()` at the end."""

    def __init__(self, archive: Path, *, timeout_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.archive, self.timeout_s, self._monotonic = archive, timeout_s, monotonic
        self._pool: ThreadPoolExecutor | None = None
        self._kept: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()
        self._open = 0

    async def named(self, name: str, params: Mapping[str, str | int | float], *, limit_rows: int) -> Answer:
        """The rows of a shipped query; raises Problem 422 (a parameter), 429 (too many at once), 503 (too slow)."""
        query = sql_run.find(name)
        chosen = {**sql_run.defaults(query), **sql_run.chosen(query, params)}
        return await self.ask(query.sql, chosen, limit_rows=limit_rows)

    async def ask(self, sql: str, params: Mapping[str, str | int | float], *, limit_rows: int) -> Answer:
        """The rows of one of the product's own statements."""
        key: Key = (sql, tuple(sorted(params.items())), limit_rows)
        at, known = self._kept.get(key, (float("-inf"), None))
        if known is not None and self._monotonic() - at < KEEP_S:
            return known
        try:
            answer = await self.run(
                lambda: sql_run.ask(self.archive, sql, params, limit_rows=limit_rows, timeout_s=self.timeout_s)
            )
        except EoError as error:
            # Its next step is one for `eo sql`; here the same is another parameter.
            why = str(error).partition("; ")[0]
            fix = "ask for fewer hours, or raise EO_GATEWAY_ARCHIVE_TIMEOUT_S"
            raise Problem(503, f"the archive cannot answer: {why}.", fix=fix) from error
        self._kept[key] = (self._monotonic(), answer)
        while len(self._kept) > KEEP:
            self._kept.popitem(last=False)
        return answer

    async def run(self, work: Callable[[], T]) -> T:
        """Some work in the pool; the caller's own bound keeps it short."""
        if self._open >= WAITING:
            raise Problem(
                429,
                f"{self._open} questions to the archive wait already ({WAITING} may).",
                fix="ask again in some seconds",
                headers={"Retry-After": "5"},
            )
        if self._pool is None:
            self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="archive")
        self._open += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._open -= 1

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def newest_age_s(archive: Path, now_ns: int) -> float | None:
    """Seconds since a file of the archive was written; None for an empty one. Looks at folders only, newest first."""
    newest = 0.0
    for dataset in sorted(archive.glob("topic=*")):
        dates = sorted(dataset.glob("date=*"))
        hours = sorted(dates[-1].glob("hour=*")) if dates else []
        if hours:
            newest = max(newest, hours[-1].stat().st_mtime)
    return max(0.0, now_ns / 1e9 - newest) if newest else None
