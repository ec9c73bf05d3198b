"""Every recording, torn, bent and spoiled: a reading is sound or refused in one sentence, whatever the bytes say."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agents.node.errors import SourceError
from agents.node.sources import registry, sound
from agents.node.sources.base import Reading

DATA = Path(__file__).resolve().parents[2] / "data"
ENGINES = {"vllm": "vllm", "sglang": "sglang", "tgi": "tgi", "trtllm": "tensorrt-llm", "triton": "triton"}
NUMBERS = (
    b"-1",
    b"NaN",
    b"1e308",
    b"-0",
    b"9223372036854775807",
    b"0x10",
    b"1_000",
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
)
SEEDS = 20
LARGEST = 120_000  # a mutation of a longer text shows nothing more


def texts() -> list[tuple[str, Path]]:
    found = [("nvidia-smi", path) for path in sorted((DATA / "nvidia_smi").glob("*.*ml"))]
    found += [("dcgm", path) for path in sorted((DATA / "dcgm").glob("*.txt"))]
    found += [("ipmi", path) for path in sorted((DATA / "ipmi").glob("*.*")) if path.suffix != ".md"]
    for path in sorted((DATA / "engines").glob("*.txt")):
        kind = next((kind for word, kind in ENGINES.items() if word in path.name), None)
        found += [(kind, path)] if kind is not None else []
    return [(source, path) for source, path in found if path.stat().st_size <= LARGEST]


def mutations(raw: bytes, chance: random.Random) -> bytes:
    """One of the ways in which a text goes wrong."""
    at = chance.randrange(max(1, len(raw)))
    other = chance.randrange(max(1, len(raw)))
    ways: list[Callable[[], bytes]] = [
        lambda: raw[:at],
        lambda: raw[at:],
        lambda: raw[:at] + chance.randbytes(8) + raw[at + 8 :],
        lambda: raw[:at] + raw[other : other + 200] + raw[at:],
        lambda: raw[:at] + b"\x00" * 50 + raw[at:],
        lambda: raw.replace(chance.choice((b"W", b"MiB", b'"', b"{", b"<", b":")), chance.choice(NUMBERS)),
        lambda: _numbers(raw, chance),
        lambda: _numbers(raw, chance),
    ]
    return chance.choice(ways)()


def _numbers(raw: bytes, chance: random.Random) -> bytes:
    """A tenth of all numbers become something else."""
    words = raw.split(b" ")
    return b" ".join(chance.choice(NUMBERS) if word[:1].isdigit() and chance.random() < 0.1 else word for word in words)


def sound_or_refused(read: Callable[[], Reading]) -> None:
    try:
        reading = read()
    except SourceError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
        return
    assert sound.problem(reading) is None
    msgspec.json.encode([reading.gpu, reading.domains, reading.sensors, reading.engines, reading.host])
    for gpu_w in (reading.gpu.power_w or ()) if reading.gpu is not None else ():
        assert gpu_w is None or 0 <= gpu_w <= 5000


@pytest.mark.parametrize(("source", "path"), texts(), ids=lambda value: value if isinstance(value, str) else value.name)
def test_a_spoiled_text_is_sound_or_refused(source: str, path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    for seed in range(SEEDS):
        spoiled = tmp_path / f"{seed}"
        spoiled.write_bytes(mutations(raw, random.Random(seed)))
        made = registry.make(source, {"file": str(spoiled)})
        sound_or_refused(lambda made=made: made.read(1))  # type: ignore[misc]
        made.close()


def spoil(value: object, chance: random.Random) -> object:
    """A document with some values of another kind, some links elsewhere and some parts gone."""
    odd: list[object] = [
        None,
        -5,
        1e300,
        "N/A",
        "x" * 500,
        [],
        {},
        True,
        [[]],
        "/redfish/v1",
        {"@odata.id": "/redfish/v1/Chassis"},
    ]
    if isinstance(value, dict):
        return {key: spoil(item, chance) for key, item in value.items() if chance.random() > 0.03}
    if isinstance(value, list):
        return [spoil(item, chance) for item in value]
    return chance.choice(odd) if chance.random() < 0.08 else value


@pytest.mark.parametrize("path", sorted((DATA / "redfish_made").glob("*.json")), ids=lambda path: str(path.stem))
def test_a_spoiled_tree_is_sound_or_refused(path: Path, tmp_path: Path) -> None:
    docs = json.loads(path.read_text())
    for seed in range(SEEDS):
        chance = random.Random(seed)
        for uri, doc in docs.items():
            file = tmp_path / f"{seed}" / uri.strip("/") / "index.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(spoil(doc, chance)))
        made = registry.make("redfish", {"root": str(tmp_path / f"{seed}")})
        sound_or_refused(lambda made=made: made.read(1))  # type: ignore[misc]
        made.close()
