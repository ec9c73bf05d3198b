"""Spans of a process that may not talk to the network: noted while a traced request runs, handed back with its answer.

The capper has no network by design, so it notes what it did and the node agent sends that on under the capper's name.
One thread only. Outside a traced request `step` does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import msgspec

from streams.observe.trace import formatted, new_span_id, parsed

MOST: Final = 64  # notes of one request; an envelope of many GPUs keeps its first ones
_NOTHING: Final = nullcontext()


class SpanNote(msgspec.Struct, frozen=True, kw_only=True):
    """One finished span, ready for whoever may send it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float | bool] = {}
    error: str = ""


class Notebook:
    """Notes of one traced request."""

    def __init__(self, traceparent: str, wall_ns: Callable[[], int] = time.time_ns) -> None:
        found = parsed(traceparent)
        if found is None:
            raise ValueError(f"{traceparent[:80]!r} is no traceparent")
        self._trace_id, root = found
        self._stack, self._wall_ns = [root], wall_ns
        self.notes: list[SpanNote] = []

    @property
    def traceparent(self) -> str:
        return formatted(self._trace_id, self._stack[-1])

    @contextmanager
    def span(self, name: str, attributes: dict[str, str | int | float | bool]) -> Iterator[None]:
        """Notes one span around a block; an exception is noted and goes on."""
        parent, own, begun = self._stack[-1], new_span_id(), self._wall_ns()
        self._stack.append(own)
        problem = ""
        try:
            yield
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"[:200]
            raise
        finally:
            self._stack.pop()
            if len(self.notes) < MOST or parent == self._stack[0]:  # the outermost one is always kept
                self.notes.append(
                    SpanNote(
                        name=name,
                        trace_id=self._trace_id,
                        span_id=own,
                        parent_id=parent,
                        start_ns=begun,
                        end_ns=self._wall_ns(),
                        attributes=attributes,
                        error=problem,
                    )
                )


_open: list[Notebook] = []


@contextmanager
def taking(traceparent: str, wall_ns: Callable[[], int] = time.time_ns) -> Iterator[list[SpanNote]]:
    """Notes what `step` marks inside the block; a traceparent that is none notes nothing."""
    if parsed(traceparent) is None:
        yield []
        return
    book = Notebook(traceparent, wall_ns)
    _open.append(book)
    try:
        yield book.notes
    finally:
        _open.remove(book)


def step(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[None]:
    """A span around a block while a traced request runs, nothing otherwise."""
    return _open[-1].span(name, attributes) if _open else _NOTHING
