"""Laws of the capper: order and repetition of commands change nothing, no bytes but signed ones move a device."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.contract.codec import decode
from streams.contract.errors import ContractError
from streams.contract.records import PowerDesired
from streams.contract.signing import canonical_bytes
from tests.fakes.capper_rig import GPUS, KEYRING, STRANGER, Rig, columns, command

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        made = Rig(Path(folder))
        yield made
        made.capper.close()


Step = tuple[float | None, int | None, tuple[str, ...]]
steps = st.tuples(
    st.none() | st.floats(200, 700).map(lambda watts: round(watts)),
    st.none() | st.integers(900, 1980),
    st.sampled_from([GPUS, GPUS[:1], GPUS[1:]]),
)


def log_of(made: Rig, script: list[Step]) -> list[bytes]:
    return [
        made.raw(seq, columns(uuids, watts=watts, low=None if high is None else 800, high=high))
        for seq, (watts, high, uuids) in enumerate(script, 1)
    ]


@settings(max_examples=60, deadline=None)
@given(script=st.lists(steps, min_size=1, max_size=6), data=st.data())
def test_any_order_and_repetition_ends_as_the_ordered_log(script: list[Step], data: st.DataObject) -> None:
    with rig() as ordered, rig() as shuffled:
        for raw in log_of(ordered, script):
            ordered.send(raw)
        log = log_of(shuffled, script)
        again = data.draw(st.lists(st.sampled_from(log), max_size=6))
        for raw in data.draw(st.permutations(log + again)):
            assert shuffled.send(raw).event == "command"
        assert ordered.power is not None and shuffled.power is not None
        assert ordered.clock is not None and shuffled.clock is not None
        assert shuffled.power.values == ordered.power.values
        assert shuffled.clock.values == ordered.clock.values
        assert shuffled.capper.status()["mark"] == ordered.capper.status()["mark"]


@settings(max_examples=80, deadline=None)
@given(watts=st.floats(allow_nan=False, allow_infinity=False), found=st.floats(200, 700))
def test_a_limit_never_leaves_its_bounds_nor_rises_above_what_was_found(watts: float, found: float) -> None:
    with rig() as made:
        assert made.power is not None
        made.power.values["GPU-a"] = found
        ack = made.grant(1, columns(("GPU-a",), watts=watts))
        now = made.power.values["GPU-a"]
        assert now is not None and 200 <= now <= found + 0.001
        match ack.gpu.status[0]:
            case "refused":
                assert now == found
            case "applied":
                assert abs(now - watts) <= 1.0
            case status:
                assert status == "clamped" and watts > now
        made.capper.restore_all("test")
        assert made.power.values["GPU-a"] == pytest.approx(found, abs=0.001)


near = st.floats(0, 2).map(lambda below: round(700 - below, 3))


@settings(max_examples=80, deadline=None)
@given(script=st.lists(near | st.floats(200, 700), min_size=1, max_size=5), dies=st.booleans())
def test_whatever_was_set_a_restore_gives_back_the_very_value(script: list[float], dies: bool) -> None:
    with rig() as made:
        for seq, watts in enumerate(script, 1):
            made.grant(seq, columns(watts=watts))
        if dies:
            made.crash()
            made.restart()
        made.capper.restore_all("test")
        assert made.power is not None and set(made.power.values.values()) == {700.0}


@settings(max_examples=60, deadline=None)
@given(low=st.none() | st.integers(), high=st.none() | st.integers(), wanted=st.integers(-100, 3000))
def test_a_lock_never_leaves_lease_and_device(low: int | None, high: int | None, wanted: int) -> None:
    with rig() as made:
        ack = made.grant(1, columns(watts=None, low=low, high=high))
        made.capper.set_clocks({"GPU-a": wanted})
        assert made.clock is not None
        lock = made.clock.values["GPU-a"]
        if lock is not None:
            assert ack.gpu.status[0] in {"applied", "clamped"}
            assert max(345, -1 if low is None else low) <= lock <= min(1980, 1980 if high is None else high)
            assert lock in made.clock.bounds("GPU-a").grid


def test_flipped_bits_move_nothing() -> None:
    """3,000 mutants of one signed command: what is obeyed says, byte by byte of its signed meaning, what was signed."""
    random_ = random.Random(1)
    with rig() as made:
        original = made.raw(1)
        meaning = canonical_bytes(decode(PowerDesired, original))
        for _ in range(3000):
            mutant = bytearray(original)
            for _ in range(random_.choice((1, 1, 1, 2, 8))):
                mutant[random_.randrange(len(mutant))] ^= 1 << random_.randrange(8)
            if same_meaning(bytes(mutant), meaning):
                continue
            ack = made.send(bytes(mutant))
            assert set(ack.gpu.status) == {"refused"}
        assert made.set_calls == 0 and made.untouched()


def same_meaning(raw: bytes, meaning: bytes) -> bool:
    """A mutant in an unsigned corner (an optional field's name, a spare bit of base64) is still what was signed."""
    try:
        record = decode(PowerDesired, raw)
        KEYRING.verify(record)
    except (ContractError, ValueError):
        return False
    return canonical_bytes(record) == meaning


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_random_bytes_are_refused(raw: bytes) -> None:
    with rig() as made:
        assert set(made.send(raw).gpu.status) == {"refused"}
        assert made.set_calls == 0


def test_commands_of_one_node_move_no_other() -> None:
    """16 nodes' commands, replayed to one: only its own is obeyed, whoever sends them."""
    with rig() as made:
        for number in range(16):
            if f"n{number}" != "n1":
                ack = made.grant(number + 1, node=f"n{number}")
                assert set(ack.gpu.status) == {"refused"}
        assert made.set_calls == 0
        assert made.grant(1, node="n1").gpu.status == ("applied", "applied")


def test_a_strangers_signature_moves_nothing() -> None:
    with rig() as made:
        from streams.contract.codec import encode

        for seq in range(1, 200):
            made.send(encode(STRANGER.sign(command(seq, issued_at_ns=made.wall_ns))))
        assert made.set_calls == 0
        assert made.capper.status()["counts"] == {"refused.signature": 199}
