"""Waiting requests of all replicas: a queue is two counters into the replica's own request stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.twin.workload import Workload

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Ints = NDArray[np.int64]


class Queues:
    """head <= admitted <= tail, counted since the start: prefilled, admitted to the batch, arrived."""

    def __init__(self, workload: Workload, replicas: int) -> None:
        if len(workload.replica) and not 0 <= workload.replica[0] <= workload.replica[-1] < replicas:
            raise ValueError(f"the workload names replica {workload.replica[-1]}, the cluster has {replicas}")
        self._work = workload
        self._length: Ints = np.bincount(workload.replica, minlength=replicas).astype(np.int64)
        self._start: Ints = np.concatenate(([0], np.cumsum(self._length)[:-1])).astype(np.int64)
        self.head: Ints = np.zeros(replicas, dtype=np.int64)
        self.admitted: Ints = np.zeros(replicas, dtype=np.int64)
        self.tail: Ints = np.zeros(replicas, dtype=np.int64)
        self.tokens: Array = np.zeros(replicas)  # prompt tokens arrived and not prefilled
        self.head_left: Array = np.zeros(replicas)  # of the request at the head
        self.next_arrival_s: Array = np.full(replicas, np.inf)
        self.passes_one_of: Ints | None = None  # per replica: a router's fault; None = every request comes here
        self.shed: Ints = np.zeros(replicas, dtype=np.int64)  # of the arrived, those that went elsewhere
        self._schedule(np.flatnonzero(self._length))

    def row(self, replicas: Rows, number: Ints) -> Ints:
        """Row of the workload that is a replica's number-th request; streams repeat."""
        found: Ints = self._start[replicas] + number % self._length[replicas]
        return found

    def arrival_s(self, replicas: Rows, number: Ints) -> Array:
        """When a replica's number-th request arrives; infinite after the end of a stream that does not loop."""
        lap = number // self._length[replicas]
        base = self._work.arrival_s[self.row(replicas, number)]
        if np.isinf(self._work.period_s):
            return np.where(lap > 0, np.inf, base)
        times: Array = base + lap * self._work.period_s
        return times

    def tokens_of(self, replicas: Rows, number: Ints) -> tuple[Array, Array]:
        """Prompt and output tokens of a replica's number-th request."""
        row = self.row(replicas, number)
        return self._work.prompt_tokens[row].astype(np.float64), self._work.output_tokens[row].astype(np.float64)

    def arrive(self, replicas: Rows, now_s: Array) -> None:
        """Everything that has arrived by now_s joins the tail."""
        due = self.next_arrival_s[replicas] <= now_s
        while due.any():
            replicas, now_s = replicas[due], now_s[due]
            prompt, _ = self.tokens_of(replicas, self.tail[replicas])
            empty = self.head[replicas] == self.tail[replicas]
            self.head_left[replicas[empty]] = prompt[empty]
            self.tokens[replicas] += prompt
            self.tail[replicas] += 1
            if self.passes_one_of is not None:
                self._shed(replicas[empty], prompt[empty], self.passes_one_of)
            self._schedule(replicas)
            due = self.next_arrival_s[replicas] <= now_s

    def _shed(self, replicas: Rows, prompt: Array, passes_one_of: Ints) -> None:
        """Lets the newest arrivals of empty queues go elsewhere, but for one of so many; waiting ones stay."""
        gone = (self.tail[replicas] - 1) % np.maximum(passes_one_of[replicas], 1) != 0
        rows = replicas[gone]
        self.tokens[rows] -= prompt[gone]
        self.head[rows] += 1
        self.admitted[rows] += 1
        self.shed[rows] += 1

    def pop(self, replicas: Rows) -> tuple[Array, Array, Array]:
        """Takes the prefilled head; gives its arrival, prompt and output tokens. The next one moves up."""
        number = self.head[replicas]
        arrival = self.arrival_s(replicas, number)
        prompt, output = self.tokens_of(replicas, number)
        self.head[replicas] += 1
        following, _ = self.tokens_of(replicas, number + 1)
        self.head_left[replicas] = np.where(self.head[replicas] < self.tail[replicas], following, 0.0)
        return arrival, prompt, output

    def _schedule(self, replicas: Rows) -> None:
        self.next_arrival_s[replicas] = self.arrival_s(replicas, self.tail[replicas])
