"""A capper on fake devices and a virtual clock: what most tests of the capper start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from agents.capper.core import Capper
from agents.capper.settings import CapperSettings
from streams.contract.codec import encode
from streams.contract.records import EnvelopeColumns, PowerApplied, PowerDesired
from streams.contract.signing import KeyRing, Signer
from tests.fakes.actuators import FakeActuator

KEY = SigningKey(bytes(range(32)))
SIGNER = Signer(KEY, "job-1")
KEYRING = KeyRing({"job-1": KEY.verify_key})
STRANGER = Signer(SigningKey(bytes(32)), "job-1")  # the right key id, the wrong key
GPUS = ("GPU-a", "GPU-b")
ALLOWED = CapperSettings(opt_in=True, max_mode="on", min_power_interval_s=0.0, min_clock_interval_s=0.0)
T0_NS = 1_700_000_000_000_000_000


def columns(
    uuids: Sequence[str] = GPUS,
    *,
    watts: float | Sequence[float | None] | None = 500.0,
    low: int | None = 900,
    high: int | None = 1980,
    holdout: Sequence[bool] | None = None,
) -> EnvelopeColumns:
    """An envelope's columns, the same for all GPUs unless a sequence is given."""
    n = len(uuids)
    return EnvelopeColumns(
        uuid=tuple(uuids),
        min_sm_mhz=(low,) * n,
        max_sm_mhz=(high,) * n,
        max_power_w=tuple(watts) if isinstance(watts, Sequence) else (watts,) * n,
        engine=(None,) * n,
        holdout=tuple(holdout or (False,) * n),
        reason=("test",) * n,
    )


def command(seq: int, gpu: EnvelopeColumns | None = None, *, issued_at_ns: int = T0_NS, **changes: Any) -> PowerDesired:
    """An unsigned command for node n1 of cluster c1."""
    fields: dict[str, Any] = {
        "cluster": "c1",
        "node": "n1",
        "epoch": 1,
        "sample_ts_ns": T0_NS,
        "ttl_ms": 10_000,
        "on_expiry": "restore",
        "mode": "on",
        "strategy": "balanced",
        "policy_version": "1",
        "reason": "test",
        **changes,
    }
    return PowerDesired(seq=seq, gpu=gpu or columns(), issued_at_ns=issued_at_ns, **fields)


class Rig:
    """Two GPUs, one capper, one clock. Sleeping advances the clock."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: CapperSettings = ALLOWED,
        uuids: tuple[str, ...] = GPUS,
        power: bool = True,
        clock: bool = True,
        start: bool = True,
    ) -> None:
        self.folder, self.settings = folder, settings
        self.now_s, self.wall_ns = 1000.0, T0_NS
        self.power = FakeActuator("power_limit_w", uuids) if power else None
        self.clock = FakeActuator("sm_lock_mhz", uuids) if clock else None
        self.capper = self._capper()
        if start:
            self.capper.start()

    def _capper(self) -> Capper:
        return Capper(
            node="n1",
            cluster="c1",
            settings=self.settings,
            power=self.power,
            clock=self.clock,
            folder=self.folder,
            keyring=KEYRING,
            monotonic=lambda: self.now_s,
            wall_ns=lambda: self.wall_ns,
            sleep=self.advance,
        )

    def advance(self, seconds: float) -> None:
        """Both clocks go on."""
        self.now_s += seconds
        self.wall_ns += round(seconds * 1e9)

    def run(self, seconds: float, step_s: float = 0.25) -> None:
        """The capper ticks for so long."""
        for _ in range(round(seconds / step_s)):
            self.advance(step_s)
            self.capper.tick()

    def raw(self, seq: int, gpu: EnvelopeColumns | None = None, **changes: Any) -> bytes:
        """A command issued now, signed and encoded."""
        changes.setdefault("issued_at_ns", self.wall_ns)
        return encode(SIGNER.sign(command(seq, gpu, **changes)))

    def grant(self, seq: int, gpu: EnvelopeColumns | None = None, **changes: Any) -> PowerApplied:
        return self.send(self.raw(seq, gpu, **changes))

    def send(self, raw: bytes) -> PowerApplied:
        return self.capper.grant(raw, received_ns=self.wall_ns)

    def crash(self) -> None:
        """As kill -9: nothing is said, nothing is put back; the kernel drops lock and descriptors."""
        self.capper._drop_files()

    def restart(self) -> None:
        """A new process on the same folder and the same devices."""
        self.capper = self._capper()
        self.capper.start()

    @property
    def set_calls(self) -> int:
        return sum(actuator.set_calls for actuator in (self.power, self.clock) if actuator)

    def untouched(self) -> bool:
        """Every device says what it said before us."""
        powers = set(self.power.values.values()) if self.power else {700.0}
        locks = set(self.clock.values.values()) if self.clock else {None}
        return powers == {700.0} and locks == {None}
