"""The simulated cluster: engines, boards, sensors and temperatures of all replicas, moved forward together.

No files and no clock: time passes only in `advance`. Every number that comes from here is simulated, and whoever
publishes it must say so. All GPUs of a replica run at the clock of the slowest. Faults come as values, and what they do
is gone when they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.twin.board import Boards
from models.twin.device import GPU_IDLE, HW_SLOWDOWN, HW_THERMAL, SW_POWER_CAP, SW_THERMAL, full_load_w, idle_w
from models.twin.engine import Engine
from models.twin.faults import Fault, Kind, largest
from models.twin.histograms import SparseHist
from models.twin.params import TwinParams
from models.twin.sensor import BoxcarSensor
from models.twin.thermal import Thermal
from models.twin.workload import Workload

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

FAULTS: Final[tuple[Kind, ...]] = ("burn", "starved", "slow_rank")  # those that a cluster of engines can have
_STEP_S = 0.25  # longest time over which limits settle and temperatures move at once
_SAME_S = 1e-9  # times are sums of floats: two stops this close are one


class TwinCluster:
    """Arrays of G = replicas * gpus_per_replica GPUs (replica r owns GPUs r*n to r*n+n-1) and of R replicas.

    Read after `advance`; the arrays are views or copies that callers must not write to.
    """

    def __init__(
        self, *, replicas: int, gpus_per_replica: int = 4, workload: Workload, params: TwinParams, seed: int
    ) -> None:
        """Idle at full clocks and steady temperature at time 0. Same seed, same cluster."""
        if gpus_per_replica != params.stack.gpus:
            raise ValueError(f"the stack spans {params.stack.gpus} GPUs, not {gpus_per_replica}; give a matching stack")
        rng = np.random.default_rng(seed)
        gpus = replicas * gpus_per_replica
        device = params.stack.device
        self.replicas, self.gpus, self.gpus_per_replica = replicas, gpus, gpus_per_replica
        self.now_s = 0.0
        self._device = device
        self._factor: Array = np.maximum(1.0 + params.power_spread * rng.standard_normal(gpus), 0.8)
        self._boards = Boards(device, params.actuation, factor=self._factor, per_replica=gpus_per_replica)
        inlet = params.thermal.inlet_c + params.thermal.inlet_spread_c * rng.standard_normal(gpus)
        start_w = self._factor * idle_w(device, np.ones(gpus))
        self._thermal = Thermal(params.thermal, inlet_c=inlet, start_w=start_w)
        self._sensor = BoxcarSensor(params.sensor, start_w=start_w)
        self._clocks = self._boards.clocks(self._thermal.clock_ceiling())
        self._hot = False
        self.engine = Engine(params.stack, workload, replicas=replicas, clocks=self._clocks)
        self._kv_limit = float(params.stack.kv_limit_tokens)
        self._energy_j: Array = np.zeros(gpus)
        self._leaked_j: Array = np.zeros(gpus)
        self._faults: tuple[Fault, ...] = ()
        self._burn: Array | None = None  # share of a full load that a foreign process adds; None = nowhere
        self._burned_j: Array = np.zeros(gpus)
        self.util_ratio: Array = np.zeros(gpus)

    def advance(self, dt_s: float, *, sm_lock_mhz: Array, limit_w: Array) -> None:
        """Moves everything dt_s seconds forward. sm_lock_mhz: upper lock per GPU, 0 = none; limit_w: watts per GPU."""
        self._check(dt_s, sm_lock_mhz, limit_w)
        until = self.now_s + dt_s
        if self._faults:
            self._suffer()
        busy_before = self.engine.busy_s.copy()
        self._boards.ask(
            self.now_s, sm_lock_mhz=np.array(sm_lock_mhz, dtype=np.float64), limit_w=np.array(limit_w, dtype=np.float64)
        )
        for stop in self._stops(until):
            self._step_to(stop)
        self.util_ratio = self._per_gpu(np.clip((self.engine.busy_s - busy_before) / dt_s, 0.0, 1.0))
        if self._burn is not None:
            self.util_ratio = np.where(self._burn > 0.0, 1.0, self.util_ratio)

    def set_faults(self, faults: Sequence[Fault]) -> None:
        """The faults from now on, instead of those before; each `advance` looks at them, so one begins with it."""
        for fault in faults:
            if fault.kind not in FAULTS:
                raise ValueError(f"fault {fault.kind} is not one of {', '.join(FAULTS)}, which a cluster can have")
            if fault.gpus and not 0 <= min(fault.gpus) <= max(fault.gpus) < self.gpus:
                raise ValueError(f"fault {fault.kind} names GPU {max(fault.gpus)}; the cluster has {self.gpus}")
        self._faults = tuple(faults)
        self._suffer()

    def _suffer(self) -> None:
        """What the faults of this moment do to engines and boards; all GPUs of a replica wait for the slowest."""
        burn, starved, slow = (
            largest(self._faults, k, self.now_s, self.gpus) for k in ("burn", "starved", "slow_rank")
        )
        shape = (self.replicas, self.gpus_per_replica)
        self._burn = burn if burn.any() else None
        passes, factor = starved.reshape(shape).max(axis=1), np.maximum(slow.reshape(shape).max(axis=1), 1.0)
        self.engine.queues.passes_one_of = np.round(passes).astype(np.int64) if passes.any() else None
        self.engine.slow = factor if slow.any() else None

    def _stops(self, until: float) -> list[float]:
        count = int(np.ceil((until - self.now_s) / _STEP_S - 1e-9))
        regular = np.linspace(self.now_s, until, max(count, 1) + 1)[1:].tolist()
        extra = self._sensor.edges(self.now_s, until) + self._boards.landings(until)
        ahead = sorted({*regular, *extra} - {self.now_s})
        return [stop for stop, after in zip(ahead, [*ahead[1:], np.inf], strict=True) if after - stop > _SAME_S]

    def _step_to(self, stop: float) -> None:
        dt_s = stop - self.now_s
        self.engine.run_to(stop)
        self._leaked_j += self._thermal.leak_w() * dt_s
        energy = self._per_gpu(self.engine.energy_j) * self._factor + self._leaked_j
        if self._burn is not None and dt_s > 0.0:
            own_w = (energy - (self._energy_j - self._burned_j)) / dt_s
            self._burned_j += np.maximum(self._burn_w(self._burn) - own_w, 0.0) * dt_s
        energy += self._burned_j
        if dt_s > 0.0:
            self._thermal.step(dt_s, (energy - self._energy_j) / dt_s)
        self._energy_j = energy
        self._sensor.mark(stop, energy)
        hot = bool(self._thermal.software_slowdown().any())
        if self._boards.step(stop, dt_s) or hot or self._hot:
            self._clocks = self._boards.clocks(self._thermal.clock_ceiling())
            self.engine.set_clocks(self._clocks)
        self._hot = hot
        self.now_s = stop

    def _burn_w(self, share: Array) -> Array:
        """Watts of a GPU that a foreign process keeps busy, as far as clock and limit in force allow."""
        full_w = self._per_gpu(full_load_w(self._device, self.engine.x)) * self._factor
        return np.where(share > 0.0, np.minimum(full_w * share, self._boards.limit_w), 0.0)

    def _check(self, dt_s: float, sm_lock_mhz: Array, limit_w: Array) -> None:
        if not dt_s > 0.0:
            raise ValueError(f"dt_s is {dt_s}; time only goes forward, give seconds above 0")
        for name, values in (("sm_lock_mhz", sm_lock_mhz), ("limit_w", limit_w)):
            if np.shape(values) != (self.gpus,):
                raise ValueError(f"{name} has shape {np.shape(values)}; give one value for each of {self.gpus} GPUs")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} holds a value that is not finite; give 0 for no lock and watts for the limit")

    def _per_gpu(self, per_replica: Array) -> Array:
        return np.repeat(per_replica, self.gpus_per_replica)

    @property
    def power_w(self) -> Array:
        """What the sensor says: the last published reading."""
        return self._sensor.reading_w

    @property
    def true_power_w(self) -> Array:
        """What the board draws at this moment."""
        own_w = self._per_gpu(self.engine.power_w) * self._factor + self._thermal.leak_w()
        return own_w if self._burn is None else np.maximum(own_w, self._burn_w(self._burn))

    @property
    def energy_mj(self) -> Array:
        """Exact energy since time 0, in millijoules."""
        return self._energy_j * 1e3

    @property
    def sm_mhz(self) -> Ints:
        """SM clock in force, on the device's grid."""
        step = self._device.step_mhz
        return self._per_gpu(np.round(self.engine.x * self._device.fmax_mhz / step) * step).astype(np.int64)

    @property
    def temp_c(self) -> Array:
        """Die temperature."""
        return self._thermal.die_c

    @property
    def throttle(self) -> Ints:
        """NVML clocks event reasons at this moment, bit mask."""
        engine = self.engine
        load = np.where(engine.busy, 0, GPU_IDLE) | np.where(engine.capped, SW_POWER_CAP, 0)
        bits: Ints = np.repeat(load.astype(np.int64), self.gpus_per_replica)
        bits |= np.where(self._thermal.software_slowdown(), SW_THERMAL, 0)
        bits |= np.where(self._thermal.hardware_slowdown(), HW_SLOWDOWN | HW_THERMAL, 0)
        if self._burn is not None:
            bits &= ~np.where(self._burn > 0.0, GPU_IDLE, 0)
            bits |= np.where(self._burn_w(self._burn) >= self._boards.limit_w, SW_POWER_CAP, 0)
        return bits

    @property
    def running(self) -> Ints:
        """Sequences that decode."""
        return self.engine.running.astype(np.int64)

    @property
    def waiting(self) -> Ints:
        """Requests arrived and not fully prefilled."""
        return self.engine.queues.tail - self.engine.queues.head

    @property
    def waiting_tokens(self) -> Ints:
        """Prompt tokens of those that are not in the KV cache yet."""
        return self.engine.queues.tokens.astype(np.int64)

    @property
    def kv_tokens(self) -> Ints:
        """Tokens in the KV cache."""
        return self.engine.kv_tokens.astype(np.int64)

    @property
    def kv_use_ratio(self) -> Array:
        """Share of the KV cache in use."""
        return self.engine.kv_tokens / self._kv_limit

    @property
    def prompt_tokens_total(self) -> Ints:
        """Prompt tokens prefilled since time 0."""
        return self.engine.prompt_tokens.astype(np.int64)

    @property
    def generation_tokens_total(self) -> Ints:
        """Tokens generated since time 0."""
        return self.engine.generated_tokens.astype(np.int64)

    @property
    def requests_total(self) -> Ints:
        """Requests finished since time 0."""
        return self.engine.finished.copy()

    @property
    def arrived_total(self) -> Ints:
        """Requests arrived since time 0."""
        return self.engine.queues.tail.copy()

    def set_chunk(self, replica: int, tokens: int | None) -> None:
        """Chunk size of a replica from its next iteration on; None = the stack's own."""
        own = self.engine.stack.chunk_tokens
        self.engine.chunk_tokens[replica] = own if tokens is None else min(max(tokens, 1), own)

    def take_histograms(self, replica: int) -> tuple[SparseHist, SparseHist, SparseHist]:
        """Time to first token, time between tokens and end-to-end of one replica since they were last taken."""
        return self.engine.ttft.take(replica), self.engine.tbt.take(replica), self.engine.e2e.take(replica)
