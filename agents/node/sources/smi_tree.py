"""The text of `nvidia-smi -q -x` as a small tree per GPU. Knows XML's dangers and no meaning of any element.

No entity is expanded and no document type is fetched; depth, size and number of elements are bounded. A GPU whose
element is complete is kept even when the text breaks off after it. Sections that nobody needs are cut out first: they
are most of the text, and process names are where odd bytes stand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

MAX_BYTES: Final = 16 * 2**20
MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 200_000
MAX_GPUS: Final = 256
_SKIPPED: Final = ("supported_clocks", "processes", "accounted_processes")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(slots=True)
class Node:
    """One element: its name, its own text and its children in order."""

    tag: str
    text: str = ""
    children: list[Node] = field(default_factory=list)
    id: str = ""  # of a GPU: its PCI address

    def find(self, *path: str) -> Node | None:
        """The first element along a path of names."""
        node: Node | None = self
        for name in path:
            node = next((child for child in node.children if child.tag == name), None) if node else None
        return node

    def value(self, *path: str) -> str | None:
        """The text of the first element along a path; None when there is none."""
        node = self.find(*path)
        return None if node is None else node.text.strip()


class _Refused(Exception):
    """The text does something that no output of the program does."""


def decoded(body: bytes) -> str:
    """Text whatever the encoding: UTF-16 by its mark (shells write that), else UTF-8 with odd bytes replaced."""
    if body[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return body.decode("utf-16", "replace")
    return body.decode("utf-8", "replace").removeprefix("\ufeff")


def gpus(text: str) -> tuple[list[Node], Node, str | None]:
    """(complete GPUs, what stands outside of them, why the rest is not there or None)."""
    text = _NOT_XML.sub("\ufffd", text)
    for tag in _SKIPPED:
        text = _without(text, tag)
    return _Builder().read(text)


def _without(text: str, tag: str) -> str:
    """The text without any element of this name; one that is not closed stays for the parser to complain of."""
    opening, closing, kept, at = f"<{tag}>", f"</{tag}>", [], 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
        kept.append(text[at:start])
        at = end + len(closing)
    return "".join([*kept, text[at:]])


class _Builder:
    def __init__(self) -> None:
        self.found: list[Node] = []
        self._root = Node("")
        self._stack = [self._root]
        self._count = 0

    def read(self, text: str) -> tuple[list[Node], Node, str | None]:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler, parser.EntityDeclHandler = self._data, self._entity
        problem = None
        try:
            parser.Parse(text.encode("utf-8", "replace"), True)
        except expat.ExpatError as error:
            problem = f"the text breaks off or is no XML at line {error.lineno} ({expat.ErrorString(error.code)})"
        except _Refused as error:
            problem = f"the text is refused: {error}"
        return self.found, self._root, problem

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._stack) > MAX_DEPTH or self._count > MAX_ELEMENTS or len(self.found) >= MAX_GPUS:
            raise _Refused(f"more than {MAX_DEPTH} levels, {MAX_ELEMENTS} elements or {MAX_GPUS} GPUs")
        node = Node(tag.strip().lower(), id=attributes.get("id", ""))
        self._stack[-1].children.append(node)
        self._stack.append(node)

    def _end(self, _tag: str) -> None:
        node = self._stack.pop()
        if node.tag == "gpu" and len(self._stack) == 2:  # nvidia_smi_log/gpu
            self.found.append(node)

    def _data(self, data: str) -> None:
        node = self._stack[-1]
        if len(node.text) < 4096:
            node.text += data

    def _entity(self, *_: object) -> None:
        raise _Refused("it declares entities, which could unfold without end")
