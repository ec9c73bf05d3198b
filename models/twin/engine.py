"""The serving engine of all replicas in lock step: continuous batching with chunked prefill on simulated iterations.

Each replica has its own time; a pass completes the iteration of every replica whose iteration has ended and plans the
next. Laws that tests hold it to: requests arrived = finished + running + waiting (+ shed by a
faulty router), and the same for tokens. Admission
reserves a request's whole KV need (no preemption in this first form); there is no routing between replicas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.control.profiles import StackProfile
from models.twin.device import Load, capped, idle_w
from models.twin.histograms import Histograms
from models.twin.queues import Queues, Rows
from models.twin.workload import Workload

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Clocks:
    """What every replica may use: the slowest clock and the tightest limit of its GPUs, for a GPU of nominal power."""

    x: Array
    cap_w: Array


class Sequences:
    """Running sequences: a ring of finish slots per replica, each the head of a list of seats."""

    def __init__(self, replicas: int, *, seats: int, longest: int) -> None:
        self._mask = (1 << int(longest + 1).bit_length()) - 1
        self._ring = np.full((replicas, self._mask + 1), -1, dtype=np.int32)
        total = replicas * seats
        self._next = np.full(total, -1, dtype=np.int32)
        self._arrival = np.zeros(total)
        self._tokens = np.zeros(total)
        self._free = np.arange(total, dtype=np.int32)
        self._free_count = total

    def seat(self, rows: Rows, finish: NDArray[np.int64], arrival_s: Array, tokens: Array) -> None:
        """Seats one sequence per row (rows unique) that ends at iteration `finish`."""
        self._free_count -= len(rows)
        seats = self._free[self._free_count : self._free_count + len(rows)].copy()
        slot = finish & self._mask
        self._next[seats] = self._ring[rows, slot]
        self._ring[rows, slot] = seats
        self._arrival[seats], self._tokens[seats] = arrival_s, tokens

    def lift(self, rows: Rows, iteration: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int32]]:
        """Rows with sequences that end at this iteration, and the first of them; the slot is emptied."""
        slot = iteration & self._mask
        first = self._ring[rows, slot]
        hit = first >= 0
        self._ring[rows[hit], slot[hit]] = -1
        return rows[hit], first[hit]

    def leave(self, seats: NDArray[np.int32]) -> tuple[Array, Array, NDArray[np.int32]]:
        """Frees seats; gives arrival, tokens and the seat that ends with each (-1 = none)."""
        self._free[self._free_count : self._free_count + len(seats)] = seats
        self._free_count += len(seats)
        return self._arrival[seats], self._tokens[seats], self._next[seats]


class Engine:
    """State of all replicas. Times in seconds, energy in joules of one GPU of nominal power per replica."""

    def __init__(self, stack: StackProfile, workload: Workload, *, replicas: int, clocks: Clocks) -> None:
        longest = _checked_longest(stack, workload)
        self.stack = stack
        self._clocks = clocks
        self.queues = Queues(workload, replicas)
        self._sequences = Sequences(replicas, seats=stack.max_sequences, longest=longest)
        self.iteration = np.zeros(replicas, dtype=np.int64)
        self.running: Array = np.zeros(replicas)
        self.kv_tokens: Array = np.zeros(replicas)
        self._reserved: Array = np.zeros(replicas)
        self._admitted_tokens: Array = np.zeros(replicas)
        self._planned: Array = np.zeros(replicas)
        self.prompt_tokens: Array = np.zeros(replicas)
        self.generated_tokens: Array = np.zeros(replicas)
        self.finished = np.zeros(replicas, dtype=np.int64)
        self.ttft, self.tbt, self.e2e = (Histograms(replicas) for _ in range(3))
        self.busy = np.zeros(replicas, dtype=np.bool_)
        self.chunk_tokens: Array = np.full(replicas, float(stack.chunk_tokens))  # of the next iterations
        self.x: Array = clocks.x.copy()  # in force: the limit may hold it below the lock
        self.capped = np.zeros(replicas, dtype=np.bool_)
        self.power_w: Array = idle_w(stack.device, clocks.x)
        self.energy_j: Array = np.zeros(replicas)
        self.busy_s: Array = np.zeros(replicas)
        self.slow: Array | None = None  # a fault: each step takes so many times as long; None = none does
        self._begin: Array = np.zeros(replicas)  # of the iteration
        self._since: Array = np.zeros(replicas)  # energy is accounted up to here
        self._end: Array = self.queues.next_arrival_s.copy()

    def set_clocks(self, clocks: Clocks) -> None:
        """Takes effect with the next iteration of a busy replica, at once on an idle one. Call after run_to."""
        self._clocks = clocks
        idle = np.flatnonzero(~self.busy)
        self.x[idle] = clocks.x[idle]
        self.power_w[idle] = idle_w(self.stack.device, clocks.x[idle])

    def run_to(self, until_s: float) -> None:
        """Moves every replica to until_s; an iteration that spans it is accounted up to it and ends later."""
        while True:
            rows = np.flatnonzero(self._end <= until_s)
            if rows.size == 0:
                break
            end = self._end[rows]
            self._account(rows, end)
            work = rows[self.busy[rows]]
            if work.size:
                self._complete(work)
            self.queues.arrive(rows, end)
            self._plan(rows, end)
        self._account(slice(None), until_s)

    def _account(self, rows: Rows | slice, until_s: Array | float) -> None:
        span = until_s - self._since[rows]
        self.energy_j[rows] += self.power_w[rows] * span
        self.busy_s[rows] += span * self.busy[rows]
        self._since[rows] = until_s

    def _complete(self, rows: Rows) -> None:
        self.iteration[rows] += 1
        running = self.running[rows]
        decoding = rows[running > 0]
        self.tbt.add(decoding, self._end[decoding] - self._begin[decoding], self.running[decoding])
        self.generated_tokens[rows] += running
        self.kv_tokens[rows] += running
        self._finish(rows)
        prefilled = rows[self._planned[rows] > 0]
        if prefilled.size:
            self._prefill(prefilled)

    def _finish(self, rows: Rows) -> None:
        rows, seats = self._sequences.lift(rows, self.iteration[rows])
        while rows.size:
            arrival, tokens, following = self._sequences.leave(seats)
            self.e2e.add(rows, self._end[rows] - arrival, 1.0)
            self.running[rows] -= 1
            self.kv_tokens[rows] -= tokens - 1.0  # the last token is never written to the cache
            self._reserved[rows] -= tokens
            self.finished[rows] += 1
            more = following >= 0
            rows, seats = rows[more], following[more]

    def _prefill(self, rows: Rows) -> None:
        done = self._planned[rows]
        self.prompt_tokens[rows] += done
        self.kv_tokens[rows] += done
        self.queues.tokens[rows] -= done
        left = self.queues.head_left
        while rows.size:
            whole = done >= left[rows]
            part = ~whole
            left[rows[part]] -= done[part]
            rows, done = rows[whole], done[whole] - left[rows[whole]]
            self._first_token(rows)
            more = done > 0
            rows, done = rows[more], done[more]

    def _first_token(self, rows: Rows) -> None:
        if rows.size == 0:
            return
        end = self._end[rows]
        arrival, prompt, output = self.queues.pop(rows)
        self.ttft.add(rows, end - arrival, 1.0)
        self.generated_tokens[rows] += 1
        goes_on = output > 1
        on, over = rows[goes_on], rows[~goes_on]
        tokens = prompt + output
        finish = self.iteration[on] + output[goes_on].astype(np.int64) - 1
        self._sequences.seat(on, finish, arrival[goes_on], tokens[goes_on])
        self.running[on] += 1
        if over.size:
            self.e2e.add(over, (end - arrival)[~goes_on], 1.0)
            self.kv_tokens[over] -= prompt[~goes_on]
            self._reserved[over] -= tokens[~goes_on]
            self.finished[over] += 1

    def _plan(self, rows: Rows, now_s: Array) -> None:
        stack, queues = self.stack, self.queues
        room = np.maximum(self.chunk_tokens[rows] - self.running[rows], stack.min_prefill_tokens)
        self._admit(rows, room)
        chunk = np.minimum(room, self._admitted_tokens[rows])
        self._admitted_tokens[rows] -= chunk
        self._planned[rows] = chunk
        running = self.running[rows]
        works = running + chunk > 0
        self.busy[rows] = works
        load = Load(running, self.kv_tokens[rows], chunk)
        lock = self._clocks.x[rows]
        x, t_s, watts = capped(stack, load, x=lock, cap_w=self._clocks.cap_w[rows])
        if self.slow is not None:
            t_s, watts = self._slowed(rows, t_s, watts, x)
        self.x[rows] = np.where(works, x, lock)
        self.capped[rows] = works & (x < lock)
        self.power_w[rows] = np.where(works, watts, idle_w(stack.device, lock))
        self._begin[rows] = now_s
        self._end[rows] = np.where(works, now_s + t_s, queues.next_arrival_s[rows])

    def _slowed(self, rows: Rows, t_s: Array, watts: Array, x: Array) -> tuple[Array, Array]:
        """The same work over a longer time: what the step spends above idle is spread, waiting costs idle watts."""
        assert self.slow is not None
        slow, floor = self.slow[rows], idle_w(self.stack.device, x)
        return t_s * slow, floor + (watts - floor) / slow

    def _admit(self, rows: Rows, room: Array) -> None:
        """Admits from the queue until the chunk is full, within the sequence and KV limits."""
        stack, queues = self.stack, self.queues
        wants = (queues.admitted[rows] < queues.tail[rows]) & (self._admitted_tokens[rows] < room)
        while wants.any():
            rows, room = rows[wants], room[wants]
            number = queues.admitted[rows]
            prompt, output = queues.tokens_of(rows, number)
            seats = self.running[rows] + (number - queues.head[rows])
            fits = (self._reserved[rows] + prompt + output <= stack.kv_limit_tokens) & (seats < stack.max_sequences)
            rows, room = rows[fits], room[fits]
            self._reserved[rows] += (prompt + output)[fits]
            self._admitted_tokens[rows] += prompt[fits]
            queues.admitted[rows] += 1
            wants = (queues.admitted[rows] < queues.tail[rows]) & (self._admitted_tokens[rows] < room)


def _checked_longest(stack: StackProfile, workload: Workload) -> int:
    """Longest output; a request that can never fit the KV cache would block its queue for ever and is refused."""
    if len(workload.replica) == 0:
        return 1
    largest = int((workload.prompt_tokens + workload.output_tokens).max())
    if largest > stack.kv_limit_tokens:
        raise ValueError(
            f"a request of {largest} tokens exceeds the KV limit of {stack.kv_limit_tokens}; clip the trace"
        )
    return int(workload.output_tokens.max())
