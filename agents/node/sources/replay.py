"""A recorded file of telemetry, NodeTelemetry as JSON, played again at any speed.

One record per line, or indented as `eo read --json` prints it, one after the other. The recorded quality and capability
are kept; time stamps become those of the replay, so that a recording reads like a live node. Only two records are held
in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from agents.node.errors import SourceError
from agents.node.sources.base import Probe, Reading
from agents.node.sources.rows import recorded
from streams.contract import codec
from streams.contract.errors import ContractError
from streams.contract.records import NodeTelemetry

_ROWS = re.compile(rb'"(?:domains|sensors)"\s*:\s*\[')


class ReplaySource:
    """Plays a recording.

    Args:
        path: records of NodeTelemetry as JSON, oldest first.
        speed: recorded seconds per second; 0 = one record per reading, whatever the time.
        loop: begin again at the end; otherwise the reading fails there.
    """

    name = "replay"

    def __init__(self, path: str | Path, *, speed: float = 1.0, loop: bool = True) -> None:
        if float(speed) < 0:
            raise SourceError(f"replay speed {speed} is below 0; use 1 for the recorded pace, 0 for a record a reading")
        self._path, self._speed, self._loop = Path(path), float(speed), bool(loop)
        self._lines: Iterator[NodeTelemetry] | None = None
        self._now: NodeTelemetry | None = None
        self._ahead: NodeTelemetry | None = None
        self._began: tuple[int, int] | None = None  # wall clock and recorded time at the first record of a round

    def probe(self) -> Probe:
        try:
            first = next(self._records(), None)
        except SourceError as error:
            return Probe(False, str(error))
        if first is None:
            return Probe(False, f"recording {self._path} is empty; record one with `eo read nvml --json`")
        return Probe(True, None, first.capability)

    def read(self, now_ns: int) -> Reading:
        """The record that was current at this point of the recording. Raises SourceError for a bad file or its end."""
        record = self._at(now_ns)
        shift_ns = now_ns - record.ts_ns
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality=record.quality,
            capability=record.capability,
            gpu=record.gpu,
            host=record.host,
            engines=tuple(msgspec.structs.replace(e, ts_ns=e.ts_ns + shift_ns) for e in record.engines),
            domains=record.domains,
            sensors=record.sensors,
        )

    def close(self) -> None:
        self._lines = self._now = self._ahead = self._began = None

    def _at(self, now_ns: int) -> NodeTelemetry:
        if self._lines is None or self._now is None or self._began is None:
            return self._begin(now_ns)
        if self._speed == 0:
            return self._step(now_ns)
        due_ns = self._began[1] + int((now_ns - self._began[0]) * self._speed)
        while self._ahead is not None and self._ahead.ts_ns <= due_ns:
            self._now, self._ahead = self._ahead, next(self._lines, None)
        return self._end(now_ns) if self._ahead is None and due_ns > self._now.ts_ns else self._now

    def _step(self, now_ns: int) -> NodeTelemetry:
        if self._ahead is None or self._lines is None:
            return self._end(now_ns)
        self._now, self._ahead = self._ahead, next(self._lines, None)
        return self._now

    def _end(self, now_ns: int) -> NodeTelemetry:
        if not self._loop:
            raise SourceError(f"recording {self._path} is at its end; pass loop = true to play it again")
        return self._begin(now_ns)

    def _begin(self, now_ns: int) -> NodeTelemetry:
        self._lines = self._records()
        self._now, self._ahead = next(self._lines, None), next(self._lines, None)
        if self._now is None:
            raise SourceError(f"recording {self._path} is empty; record one with `eo read nvml --json`")
        self._began = (now_ns, self._now.ts_ns)
        return self._now

    def _records(self) -> Iterator[NodeTelemetry]:
        try:
            with self._path.open("rb") as file:
                for number, text in _texts(file):
                    yield self._decoded(text, number)
        except OSError as error:
            raise SourceError(f"recording {self._path} cannot be read ({error.strerror}); check the path") from error

    def _decoded(self, line: bytes, number: int) -> NodeTelemetry:
        try:
            return codec.decode(NodeTelemetry, _in_columns(line))
        except ContractError as error:
            raise SourceError(f"recording {self._path}, line {number}: {error}; mend or remove the line") from error


def _in_columns(line: bytes) -> bytes:
    """What `eo read` printed has rows of domains and sensors; everything else goes to the typed reader as it is."""
    if _ROWS.search(line) is None:
        return line
    try:
        return recorded(line)
    except (msgspec.MsgspecError, AttributeError, KeyError, TypeError):
        return line


def _texts(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(line number, text) of each record: a line, or an indented object that ends with a brace at the margin."""
    open_text = b""
    for number, line in enumerate(lines, 1):
        if open_text:
            open_text += line
            if line.rstrip() == b"}":
                yield number, open_text
                open_text = b""
        elif line.rstrip() == b"{":
            open_text = line
        elif line.strip():
            yield number, line
    if open_text:
        yield number, open_text
