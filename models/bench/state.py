"""The bench's cluster as arrays: requests, replicas, counters. Made here in numpy, moved forward by `kernel`."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
I4 = NDArray[np.int32]
I8 = NDArray[np.int64]

# Replica states.
ON: Final = 0
LOADING: Final = 1
DRAINING: Final = 2
OFF: Final = 3

RING: Final = 1 << 14  # finish slots: outputs are clipped to fewer tokens than this
BINS: Final = 2700  # 0.5 % wide, from 1 ms
BIN_WIDTH: Final = 0.005
MISS_TTFT_S: Final = 2.0
MISS_TBT_S: Final = 0.1

# Columns of `obs`: what a replica showed since the last control step.
O_TOKENS: Final = 0  # gaps between tokens
O_TOKEN_S: Final = 1  # their sum
O_TBT_MAX: Final = 2
O_PREFILL: Final = 3
O_ENERGY: Final = 4  # of one GPU
O_ARRIVED: Final = 5  # prompt tokens
O_SLOW: Final = 6  # gaps over the policy's bound
O_TTFT_MAX: Final = 7
O_LONGEST: Final = 8  # longest prompt that arrived
O_FIRSTS: Final = 9  # first tokens, and those of them that were late
O_LATE: Final = 10
O_ANSWERS: Final = 11  # finished, and those of them that took too long
O_LONG: Final = 12
O_COLUMNS: Final = 13

# Columns of `hours`.
H_GPU_J: Final = 0
H_HOST_J: Final = 1  # host, fans and stand-by, before the power supply
H_REQUESTS: Final = 2
H_MISSED: Final = 3
H_SLOW_GAPS: Final = 4
H_GAPS: Final = 5
H_ON_S: Final = 6  # replica seconds
H_X_S: Final = 7  # clock times busy seconds
H_BUSY_S: Final = 8
H_OUTPUT: Final = 9
H_NODE_S: Final = 10
H_HOST_S: Final = 11  # seconds of live hosts; a host that the fleet has in part counts in part
H_DEEP_S: Final = 12  # busy seconds below the lowest clock at which published curves agree
H_COLUMNS: Final = 13

# Scalars in `clock`.
C_NOW: Final = 0
C_NEXT_TICK: Final = 1
C_NEXT_REQUEST: Final = 2
C_METER: Final = 3
C_PEAK_W: Final = 4  # highest one-second mean of all GPUs and hosts
C_SECOND_J: Final = 5
C_SECOND: Final = 6
C_ARRIVED: Final = 7  # requests since the last slow step
C_ARRIVED_IN: Final = 8
C_ARRIVED_OUT: Final = 9  # of finished requests
C_FINISHED: Final = 10
C_OVER: Final = 11  # one-second windows above the budget
C_BUDGET_W: Final = 12
C_LATE_S: Final = 13  # what counts as late in the observations
C_LONG_S: Final = 14
C_LOW_SHARE: Final = 15  # of requests that are of low priority; 0 = there are no classes
C_ROW_J: Final = 16  # at the last control step
C_BRAKE: Final = 17  # low-priority replicas that are to be braked
C_CALM: Final = 18  # since when the row has been well below its budget
C_LOW: Final = 19  # low-priority requests finished, and those of them whose replica was braked meanwhile
C_TOUCHED: Final = 20
C_BRAKED_S: Final = 21  # replica seconds under the brake
C_SCALARS: Final = 22


class Sim(NamedTuple):
    """All mutable state; every field is an array."""

    arrival_s: F8
    prompt: I4
    output: I4
    link: I4  # next in a queue or in a finish slot
    first_s: NDArray[np.float32]
    t: F8
    running: F8
    kv: F8
    reserved: F8
    queued: F8  # prompt tokens arrived and not prefilled
    admitted: F8  # of these, admitted to the batch
    head_left: F8
    energy: F8  # of one GPU, J
    power: F8
    x: F8
    limit_w: F8
    chunk: F8
    next_x: F8
    next_chunk: F8
    lands_s: F8
    ready_s: F8
    iteration: I8
    head: I4
    tail: I4
    fresh: I4  # first request of the queue that is not admitted
    waiting: I8
    state: I8
    low: I8  # 1: serves low-priority requests and is braked first
    braked_s: F8  # when it was braked last
    ring: I4
    obs: F8
    ctl: F8
    arms: F8
    hist: F8
    hours: F8
    clock: F8


def new_sim(
    requests: tuple[F8, I4, I4], *, replicas: int, active: int, hours: int, ctl: int, arms: int, plant: Any
) -> Sim:
    """Everything idle at full clocks at time 0; replicas from `active` on are off."""
    arrival, prompt, output = requests
    count = len(arrival)

    def zeros() -> F8:
        return np.zeros(replicas)

    state = np.where(np.arange(replicas) < active, ON, OFF).astype(np.int64)
    return Sim(
        arrival_s=arrival,
        prompt=prompt,
        output=output,
        link=np.full(count, -1, dtype=np.int32),
        first_s=np.zeros(count, dtype=np.float32),
        t=zeros(),
        running=zeros(),
        kv=zeros(),
        reserved=zeros(),
        queued=zeros(),
        admitted=zeros(),
        head_left=zeros(),
        energy=zeros(),
        power=zeros(),
        x=np.ones(replicas),
        limit_w=np.full(replicas, plant.limit_w),
        chunk=np.full(replicas, plant.chunk_tokens),
        next_x=np.full(replicas, -1.0),
        next_chunk=zeros(),
        lands_s=zeros(),
        ready_s=zeros(),
        iteration=np.zeros(replicas, dtype=np.int64),
        head=np.full(replicas, -1, dtype=np.int32),
        tail=np.full(replicas, -1, dtype=np.int32),
        fresh=np.full(replicas, -1, dtype=np.int32),
        waiting=np.zeros(replicas, dtype=np.int64),
        state=state,
        low=np.zeros(replicas, dtype=np.int64),
        braked_s=np.full(replicas, -1.0),
        ring=np.full((replicas, RING), -1, dtype=np.int32),
        obs=np.zeros((replicas, O_COLUMNS)),
        ctl=np.zeros((replicas, ctl)),
        arms=np.zeros((replicas, arms)),
        hist=np.zeros((3, hours, BINS)),
        hours=np.zeros((hours, H_COLUMNS)),
        clock=np.zeros(C_SCALARS),
    )
