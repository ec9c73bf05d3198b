"""Prometheus' and OpenMetrics' text, read with patience: what is sound is kept, what is not is counted and skipped.

Shared by every source that reads an exporter. It knows the format and no metric: what a name means, in which unit, and
whether a value is a blank is the caller's work. It never raises for bad text, and its work is bounded whatever comes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_BYTES: Final = 16 * 2**20
MAX_SAMPLES: Final = 200_000
MAX_LINE: Final = 16_384  # characters; a line of an exporter has a few hundred
MAX_LABELS: Final = 64
MAX_TYPES: Final = 20_000

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:.]*")
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
# One label, or (first, without a value) the metric's name in quotes, as Prometheus 3 writes names with dots.
_LABEL = re.compile(rf"\s*(?:([a-zA-Z_:][a-zA-Z0-9_:.]*)|{_QUOTED})\s*(?:=\s*{_QUOTED})?\s*(,|(?=\}}))")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|inf|infinity|nan)", re.I
)
_ESCAPE = re.compile(r"\\(.)", re.S)
_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_total", "_created", "_info", "_gsum", "_gcount")
_TYPES: Final = frozenset(
    {"counter", "gauge", "histogram", "summary", "untyped", "unknown", "info", "stateset", "gaugehistogram"}
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: `type` is that of its family ("untyped" when no TYPE line came before it).

    `labels` may be shared between samples: look, do not change. `ts_ms` is the exporter's own time stamp, if it gave
    one.
    """

    name: str
    labels: dict[str, str]
    value: float
    type: str
    ts_ms: float | None = None


class Samples(list[Sample]):
    """The sound samples in order, and what was not sound.

    Attributes:
        malformed: lines that are no sample and no comment.
        cut: whether the text ended in the middle of a line or was longer than the bound; the piece is not used,
            because half a number reads like a number.
        first_bad: the beginning of the first malformed line, for an error message.
        help: HELP text by family, as far as it was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.malformed, self.cut = 0, False
        self.first_bad: str | None = None
        self.help: dict[str, str] = {}

    def problem(self) -> str | None:
        """One sentence on what was left out; None when all was sound."""
        parts = []
        if self.malformed:
            parts.append(f"{self.malformed} lines are no samples and were skipped (first: {self.first_bad!r})")
        if self.cut:
            parts.append("the text ends in the middle of a line or is too long; the rest is unknown")
        return "; ".join(parts) or None


def parse(text: bytes | str, *, max_bytes: int = MAX_BYTES, max_samples: int = MAX_SAMPLES) -> Samples:
    """All sound samples of an exposition; see Samples for what was left out. Never raises for bad text."""
    found = Samples()
    if len(text) > max_bytes:
        text, found.cut = text[:max_bytes], True
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    lines = text.removeprefix("\ufeff").split("\n")
    if tail := lines.pop().strip():
        # OpenMetrics ends with "# EOF", which says the text is whole even without a line feed.
        found.cut = found.cut or tail != "# EOF"
        lines += [tail] if tail == "# EOF" else []
    seconds = any(line.startswith("# EOF") for line in lines[-2:])  # OpenMetrics: time stamps in seconds
    _Reader(found, 1000.0 if seconds else 1.0).lines(lines, max_samples)
    return found


class _Reader:
    """The state of one text: types seen so far, and label blocks, which an exporter repeats family by family."""

    def __init__(self, found: Samples, ts_factor: float) -> None:
        self._found, self._ts_factor = found, ts_factor
        self._types: dict[str, str] = {}
        self._blocks: dict[str, tuple[dict[str, str], str | None]] = {}

    def lines(self, lines: list[str], max_samples: int) -> None:
        for line in lines:
            line = line.strip(" \t\r")
            if not line:
                continue
            if line[0] == "#":
                self._comment(line)
            elif len(self._found) >= max_samples:
                self._found.cut = True
                return
            elif (sample := self._sample(line) if len(line) <= MAX_LINE else None) is not None:
                self._found.append(sample)
            else:
                self._found.malformed += 1
                self._found.first_bad = self._found.first_bad or line[:60]

    def _comment(self, line: str) -> None:
        """`# TYPE name type` and `# HELP name text` count; every other comment is a comment."""
        words = line[:MAX_LINE].split(None, 3)
        if len(words) < 3 or words[0] != "#" or len(self._types) > MAX_TYPES:
            return
        name = words[2].strip('"')
        if words[1] == "TYPE" and len(words) == 4:
            kind = words[3].strip().lower()
            self._types[name] = kind if kind in _TYPES else "untyped"
        elif words[1] == "HELP" and len(self._found.help) < MAX_TYPES:
            self._found.help[name] = words[3] if len(words) == 4 else ""

    def _sample(self, line: str) -> Sample | None:
        labels: dict[str, str] = {}
        name, rest = "", line
        if (match := _NAME.match(line)) is not None:
            name, rest = match[0], line[match.end() :].lstrip()
        if rest.startswith("{"):
            block = self._block(rest)
            if block is None:
                return None
            labels, quoted, rest = block
            name = name or quoted or ""
        words = rest.split("#", 1)[0].split()  # an exemplar follows a "#"
        if not name or len(words) not in (1, 2) or any(_NUMBER.fullmatch(word) is None for word in words):
            return None
        ts_ms = float(words[1]) * self._ts_factor if len(words) == 2 else None
        return Sample(name, labels, float(words[0]), self._type(name), ts_ms)

    def _type(self, name: str) -> str:
        """The family's type: of the name itself, or without the ending that histograms and counters add."""
        kind = self._types.get(name)
        if kind is None:
            kind = "untyped"
            for suffix in _SUFFIXES:
                if name.endswith(suffix) and (family := self._types.get(name.removesuffix(suffix))):
                    kind = family
                    break
            self._types[name] = kind
        return kind

    def _block(self, text: str) -> tuple[dict[str, str], str | None, str] | None:
        """(labels, metric name in quotes, what follows the brace); None when it is not sound."""
        # Blocks without a quoted brace, nearly all, are found by their end and looked up whole.
        end = text.find("}") + 1
        if (known := self._blocks.get(text[:end])) is not None:
            return known[0], known[1], text[end:]
        read = _labels(text)
        if read is None:
            return None
        labels, quoted, end = read
        if text.find("}") + 1 == end and len(self._blocks) < MAX_TYPES:
            self._blocks[text[:end]] = (labels, quoted)
        return labels, quoted, text[end:]


def _labels(text: str) -> tuple[dict[str, str], str | None, int] | None:
    """Reads `{a="b",...}` from the start of `text`: labels, a metric name given in quotes, where it ends."""
    labels: dict[str, str] = {}
    quoted: str | None = None
    at = 1
    while (match := _LABEL.match(text, at)) is not None and len(labels) <= MAX_LABELS:
        bare, name, value = match[1], match[2], match[3]
        if value is None:
            if name is None or quoted is not None or labels:
                return None
            quoted = _plain(name)
        else:
            key = bare or _plain(name or "")
            if key in labels:
                return None  # twice the same label: nobody can tell which one holds
            labels[key] = _plain(value)
        at = match.end()
    while at < len(text) and text[at] in " \t":
        at += 1
    if at >= len(text) or text[at] != "}" or len(labels) > MAX_LABELS:
        return None
    return labels, quoted, at + 1


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: {"n": "\n"}.get(match[1], match[1]), text)
