"""Which chassis and processors are GPUs, by their names where no type says it: spellings of several vendors. Pure.

A board or tray of GPUs, a GPU's memory, its root of trust, fan or switch carry its word and are none.
"""

from __future__ import annotations

import re
from typing import Final

from agents.node.bmc.values import kind_of

LONGEST: Final = 40  # characters of an id; more is a description
# A name's parts: runs of capitals, words, numbers; "HGX_GPU_SXM_1" and "PCIeGPU1" alike.
_PARTS: Final = re.compile(r"(?:GPU|OAM|SXM)(?![a-z])|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_WORDS: Final = re.compile(r"[A-Za-z]+")
_GPU: Final = frozenset({"gpu", "sxm", "oam", "gaudi", "accelerator", "gpgpu", "graphics"})
_BESIDE: Final = frozenset(
    {
        *("baseboard", "board", "gpus", "tray", "sled", "shelf", "rack", "riser", "slot", "zone", "zones"),
        *("dram", "hbm", "mem", "memory", "cpu", "fpga", "bmc", "hmc", "erot", "irot", "rot"),
        *("switch", "nvswitch", "nvlink", "retimer", "port", "fan", "fans", "supply", "psu", "power", "pwr"),
        *("temp", "temperature", "thermal", "inlet", "outlet"),
    }
)
_MODEL: Final = re.compile(
    r"instinct|gaudi|habana|data ?center gpu|"
    r"\b(?:a10|a16|a30|a40|a100|h100|h200|gh200|b100|b200|b300|gb200|gb300|l4|l40s?|v100|t4|mi\d{3}[a-z]?)\b"
)


def names_gpu(*words: str) -> bool:
    """Whether a resource's id or name is that of one GPU: "HGX_GPU_SXM_1", "GPU1", "OAM_3", "PCIeGPU 2", "Gaudi-0"."""
    for word in words:
        parts = {part.lower() for split in (_PARTS, _WORDS) for part in split.findall(word)}
        numbered = any(part.isdigit() for part in parts) and len(word) <= LONGEST
        if numbered and parts & _GPU and not parts & _BESIDE:
            return True
    return False


def processor_kind(kind: str, name: str, model: str, maker: str) -> str:
    """The kind of a processor: what it says it is, else its name, else its model and maker."""
    said = {"gpu": "gpu", "cpu": "cpu_package"}.get(kind.lower())
    if said is not None:
        return said
    open_question = kind.lower() in {"", "accelerator", "oem"}
    if open_question and (names_gpu(name) or _MODEL.search(f"{maker} {model}".lower())):
        return "gpu"
    return kind_of(name)
