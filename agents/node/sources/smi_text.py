"""nvidia-smi's other outputs as the same tree: the plain table, and `nvidia-smi -q` as indented text. Shapes only.

Recordings are often kept like that. The table rounds to whole watts and names no UUID; the tree says what it says.
"""

from __future__ import annotations

import re
from typing import Final

from agents.node.sources.smi_tree import MAX_DEPTH, MAX_GPUS, Node

_ROW: Final = re.compile(
    r"^\|\s*(?P<index>\d+)\s+(?P<name>\S.*?)\s+(?:On|Off|N/A|WDDM|TCC|MCDM)\s*\|\s*(?P<bus>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f:.]+)"
)
_USE: Final = re.compile(
    r"^\|\s*(?P<fan>\S+)\s+(?P<temp>-?\d+C|N/A|ERR!)\s+\S+\s+(?P<power>\S+)\s*/\s*(?P<cap>\S+)\s*\|"
    r"\s*(?P<used>N/A(?!\S)|\S+)\s*(?:/\s*(?P<total>\S+)\s*)?\|\s*(?P<util>\S+)"
)
_GPU: Final = re.compile(r"^GPU\s+([0-9A-Fa-f]{4,8}:[0-9A-Fa-f:.]+)\s*$")
# Names of `-q` that differ from the XML's, after lower case and underscores.
_ALIASES: Final = {
    "gpu_uuid": "uuid",
    "gpu_current_temp": "gpu_temp",
    "memory_current_temp": "memory_temp",
    "gpu": "gpu_util",
    "memory": "memory_util",
    "sm": "sm_clock",
    "graphics": "graphics_clock",
    "current": "current_mig",
    "instantaneous_power_draw": "instant_power_draw",
}
_NAME = re.compile(r"[^a-z0-9]+")


def gpus(text: str) -> list[Node]:
    """One tree per PCI address; what several outputs in one text say of a GPU is joined, the first holds."""
    found: dict[str, Node] = {}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if len(found) >= MAX_GPUS:
            break
        if (row := _ROW.match(line[:400])) is not None and number + 1 < len(lines):
            _table_row(found.setdefault(row["bus"], Node("gpu", id=row["bus"])), row, lines[number + 1])
        elif (head := _GPU.match(line[:400])) is not None:
            _section(found.setdefault(head[1], Node("gpu", id=head[1])), lines, number + 1)
    return list(found.values())


def _table_row(gpu: Node, row: re.Match[str], second: str) -> None:
    use = _USE.match(second[:400])
    parts: dict[tuple[str, ...], str] = {("product_name",): row["name"]}
    if use is not None:
        parts |= {
            ("fan_speed",): use["fan"],
            ("temperature", "gpu_temp"): use["temp"],
            ("gpu_power_readings", "power_draw"): use["power"],
            ("gpu_power_readings", "current_power_limit"): use["cap"],
            ("fb_memory_usage", "used"): use["used"],
            ("fb_memory_usage", "total"): use["total"] or "N/A",
            ("utilization", "gpu_util"): use["util"],
        }
    for path, text in parts.items():
        _set(gpu, path, text)


def _set(node: Node, path: tuple[str, ...], text: str) -> None:
    for name in path:
        child = node.find(name)
        if child is None:
            child = Node(name)
            node.children.append(child)
        node = child
    node.text = node.text or text


def _section(gpu: Node, lines: list[str], start: int) -> None:
    """The indented lines under `GPU 0000:...`: deeper lines are children of the line above."""
    stack: list[tuple[int, Node]] = [(0, gpu)]
    for line in lines[start:]:
        indent = len(line) - len(line.lstrip(" "))
        if not line.strip():
            continue
        if indent == 0:
            return
        while stack[-1][0] >= indent:
            stack.pop()
        name, _, text = line.strip().partition(" : ")
        if " : " not in line and line.strip().endswith(":"):
            name = line.strip()[:-1]
        tag = _NAME.sub("_", name.strip().lower()).strip("_")
        tag = tag if stack[-1][1].tag in {"gpu", "supported_clocks"} and tag != "gpu_uuid" else _ALIASES.get(tag, tag)
        child = stack[-1][1].find(tag)
        if child is None or stack[-1][1].tag == "supported_clocks":
            child = Node(tag, text.strip())
            stack[-1][1].children.append(child)
        if len(stack) < MAX_DEPTH:
            stack.append((indent, child))
