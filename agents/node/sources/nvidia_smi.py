"""NVIDIA GPUs through the program nvidia-smi (`-q -x`), or a recording of it. Reads only: the fallback without NVML.

It starts a program per reading, so it is read every few seconds at the side. Energy is not printed by any driver.
"""

from __future__ import annotations

from typing import Any, Final

from agents.node.errors import SettingsError, SourceError
from agents.node.sources import fetch, program, smi_domains, smi_rows, smi_text, smi_tree
from agents.node.sources.base import Probe, Reading
from agents.node.sources.clean import printable
from agents.node.sources.smi_tree import Node
from streams.contract.records import GpuColumns, GpuState

DEADLINE_S: Final = 10.0  # a node without persistence mode takes seconds to answer
# How the program begins when it lists no GPU.
_SAYS: Final = ("NVIDIA-SMI has failed", "Failed to initialize NVML", "Unable to determine", "No devices were found")
# capability word -> the column that proves it
_CAPABILITY: Final = (
    ("gpu.power", "power_w"),
    ("gpu.limit", "limit_w"),
    ("gpu.clock", "sm_mhz"),
    ("gpu.utilisation", "util_ratio"),
    ("gpu.memory", "mem_used_mb"),
    ("gpu.temperature", "temp_c"),
    ("gpu.throttle", "throttle"),
)


class NvidiaSmiSource:
    """All GPUs that nvidia-smi lists; quality "measured".

    Args:
        program: the program's name or path.
        file: a recording instead: XML of `nvidia-smi -q -x`, text of `nvidia-smi -q`, or the plain table.
        deadline_s: for one run.
    """

    name = "nvidia-smi"

    def __init__(self, program: str = "nvidia-smi", *, file: str = "", deadline_s: float = DEADLINE_S) -> None:
        if not program and not file:
            raise SettingsError("source nvidia-smi has neither a program nor a file; give nvidia_smi_path")
        self._program, self._file, self._deadline_s = program, file, float(deadline_s)
        self._capability: tuple[str, ...] = ()

    def probe(self) -> Probe:
        try:
            gpu = self.read(0).gpu
        except SourceError as error:
            return Probe(False, str(error))
        lost = gpu is not None and gpu.state is not None and set(gpu.state) == {"lost"}
        return Probe(True, "every GPU is lost; look into dmesg for its Xid" if lost else None, self._capability)

    def read(self, now_ns: int) -> Reading:
        """One run of the program. Raises SourceError when it cannot run or lists no GPU."""
        origin, body, said = self._output()
        text = smi_tree.decoded(body[: smi_tree.MAX_BYTES])
        nodes, problem = _nodes(text)
        if len(body) > smi_tree.MAX_BYTES:
            problem = f"the text is longer than {smi_tree.MAX_BYTES} bytes; the rest is unknown"
        if not nodes:
            raise SourceError(f"{origin} lists no GPU: {problem or said}")
        missing = {"text": problem} if problem else {}
        gpu, uuids = _columns(nodes, missing)
        self._capability = tuple(word for word, column in _CAPABILITY if getattr(gpu, column) is not None)
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            capability=self._capability,
            gpu=gpu,
            domains=smi_domains.domains(nodes, uuids),
            sensors=smi_domains.fans(nodes),
            missing=tuple(missing.items()),
        )

    def close(self) -> None:
        return None

    def _output(self) -> tuple[str, bytes, str]:
        """(where from, text, what a program without XML said)."""
        if self._file:
            text = fetch.file(self._file, max_bytes=smi_tree.MAX_BYTES)
            return text.origin, text.body, _asked(text.body)
        done = program.run([self._program, "-q", "-x"], deadline_s=self._deadline_s, max_bytes=smi_tree.MAX_BYTES)
        return self._program, done.out, f"it ended with code {done.code} ({done.first_line()})"


def _asked(body: bytes) -> str:
    """What to ask of a text without a GPU; where the program itself says why there is none, its own words."""
    first = next((line.strip() for line in smi_tree.decoded(body[:4096]).splitlines() if line.strip()), "")
    if first.startswith(_SAYS):
        return printable(first, 200)
    return "is it the output of `nvidia-smi -q -x`?"


def _nodes(text: str) -> tuple[list[Node], str | None]:
    """GPUs of whichever output this is; XML first."""
    if "<nvidia_smi_log" in text[:4096]:
        nodes, _, problem = smi_tree.gpus(text)
        return nodes, problem
    return smi_text.gpus(text), None


def _columns(nodes: list[Node], missing: dict[str, str]) -> tuple[GpuColumns, list[str]]:
    rows: dict[str, dict[str, Any]] = {}
    states: list[GpuState] = []
    uuids: list[str] = []
    for node in nodes:
        found, why = smi_rows.row(node)
        uuid = _identity(node, rows, missing)
        if uuid in rows:
            missing[f"gpus[{uuid}]"] = "listed twice; the first holds"
            continue
        rows[uuid] = found
        uuids.append(uuid)
        states.append(_state(node, found, why))
        missing.update({f"gpus[{uuid}].{column}": reason for column, reason in why.items()})
    _condense(list(rows), missing)
    columns = {}
    for column in ("name", *smi_rows.PATHS, "throttle"):
        values = tuple(row.get(column) for row in rows.values())
        columns[column] = None if all(value is None for value in values) else values
    return GpuColumns(uuid=tuple(rows), state=tuple(states), **columns), uuids


def _identity(node: Node, rows: dict[str, Any], missing: dict[str, str]) -> str:
    """The UUID; without one the PCI address, which is at least no index."""
    uuid = smi_rows.uuid(node)
    if uuid is not None:
        return uuid
    uuid = f"PCI-{printable(node.id, 64) or len(rows)}"
    missing[f"gpus[{uuid}].uuid"] = "the text names no UUID; its PCI address stands in"
    return uuid


def _state(node: Node, found: dict[str, Any], why: dict[str, str]) -> GpuState:
    if smi_rows.lost(node):
        return "lost"
    denied = "insufficient permission" in why.get("power_w", "").lower()
    return "forbidden" if denied and found.get("temp_c") is None else "ok"


def _condense(uuids: list[str], missing: dict[str, str]) -> None:
    """One line instead of one per GPU where all say the same."""
    for column in (*smi_rows.PATHS, "throttle", "energy_mj"):
        reasons = {missing.get(f"gpus[{uuid}].{column}") for uuid in uuids}
        if len(reasons) == 1 and (reason := reasons.pop()) is not None:
            for uuid in uuids:
                del missing[f"gpus[{uuid}].{column}"]
            missing[f"gpus.{column}"] = reason
