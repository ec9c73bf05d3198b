"""What the local controller remembers of an engine and is told: a row of floats, its numbers, load and bounds.

Shapes only, and the row's beginning. Like everything the bench compiles it uses nothing but floats; an unknown
measurement is NaN, an absent bound is infinite.
"""

from __future__ import annotations

from math import nan
from typing import Final, NamedTuple

from models.control.equations import Plant

# Memory: one row of floats per engine.
S_X: Final = 0  # lock in force as a share of the highest clock; 1 = default
S_CHANGED: Final = 1
S_CLEAN: Final = 2  # windows in a row that would have allowed a lower clock
S_PROVEN: Final = 3  # lowest clock at which clean windows have been seen
S_RUNNING: Final = 4  # mean load over a long answer
S_KV: Final = 5
S_RATE: Final = 6
S_TIME: Final = 7
S_DECODE: Final = 8  # learned ratios
S_PREFILL: Final = 9
S_COUNTED: Final = 10  # 1 once first tokens have been counted
S_LONG: Final = 11  # a long prompt, tokens
S_DONE: Final = 12  # prompt tokens prefilled since the start
S_BAD: Final = 13  # windows in a row in which the model did not predict
S_RECALIBRATE: Final = 14  # until when default clocks are kept and ratios learn fast
S_CHUNK: Final = 15
S_WATT: Final = 16  # learned ratio of power
S_WAIT: Final = 17  # predictions of the last step, for the words: queue wait, first token, gap at the top clock
S_FIRST: Final = 18
S_GAP: Final = 19
S_WANTED: Final = 20
S_STARTED: Final = 21
S_NEXT: Final = 22  # place in the ring of arrival snapshots
S_OUT: Final = 23  # output tokens/s
S_PLAN_X: Final = 24  # set point for the load of the last seconds
S_PLAN_CHUNK: Final = 25
S_PLANNED: Final = 26  # when
S_PLAN_WHY: Final = 27
S_TOP: Final = 28  # prefill rate at default clocks
S_KEY: Final = 29  # of the bounds that the plan was made for
S_URGENT: Final = 30  # chunk while the backlog asks for more than the set point gives, else 0
S_GAP_SUM: Final = 31  # gaps between tokens of the last minute: their sum and their number
S_GAP_COUNT: Final = 32
S_PRICE: Final = 33  # what a running sequence costs, watts of one GPU: the end-to-end bound as a price
S_UNQUIET: Final = 34  # when lock or chunk last moved: what ran then says little about the model
S_SLACK: Final = 35  # what the first token's slack is multiplied by: one in a hundred may be late, no more
S_ANSWER: Final = 36  # the same for the mean gap, from how many answers took longer than they may
S_MEET: Final = 37  # how much of other prompts' prefill a token meets, over the share of time that prefill takes
S_PRICED: Final = 38  # 1 once the price has begun from the model
S_LEAST: Final = 39  # seconds in which a long prompt has its first token at default clocks, with nothing before it
S_PROMPTS: Final = 40  # steps in which a prompt arrived, up to FEW
S_GAPS: Final = 41  # room that gaps between tokens leave, counted like first tokens; 0 until any were counted
S_RING: Final = 42
SNAPSHOTS: Final = 10
S_SIZE: Final = S_RING + 2 * SNAPSHOTS


PRICE_FIRST: Final = 1000.0  # dear at first: clocks begin high
SLACK_FIRST: Final = 0.3  # tight at first, where late first tokens are counted: what is too much shows at once as room


class Tuning(NamedTuple):
    """How careful the controller is; frozen on the training days (docs/benchmarks/control.md)."""

    react_s: float = 0.6  # from a change in the queue to a clock in force
    slack_ratio: float = 0.05  # of the first-token target: what a late boost may cost a long prompt
    down_x: float = 60.0 / 1980.0  # one step into clocks that are not proven
    clean: float = 3.0
    dwell_s: float = 1.0
    chunk_min: float = 0.0  # 0: the engine does not take a chunk size
    chunk_max: float = 0.0
    gain: float = 0.1
    gain_down: float = 0.03
    deadline_ratio: float = 0.9  # share of the first-token target by which the backlog must be gone
    learns: float = 1.0  # 0: the model is taken as it is; 1: two ratios; 2: one ratio for both
    rush_ratio: float = 0.5  # a backlog of this share of the first-token target is cleared at full speed
    plan_s: float = 2.0  # how often the set point for the mean load is sought
    busy_max: float = 0.85  # share of time in prefill that a set point may come to
    late_gain: float = 0.05  # one late first token shrinks the slack by this share
    long_gain: float = 0.01  # one long answer shrinks the mean gap's target by this share
    gap_gain: float = 0.001  # one gap over its bound shrinks what gaps leave by this share


class Load(NamedTuple):
    """What the engine says now and showed since the last step."""

    running: float
    queued: float  # prompt tokens not prefilled
    kv: float
    prefilled: float  # since the last step; NaN = unknown
    longest: float  # longest prompt that arrived since; NaN = unknown
    generated: float  # output tokens since the last step; NaN = unknown
    mean_s: float  # gaps between tokens since the last step; NaN = none or unknown
    tail_s: float
    x: float  # clock that the device showed
    watts: float  # of one GPU; NaN = unknown
    firsts: float = nan  # first tokens since the last step, and those of them that came later than they may
    late: float = nan
    answers: float = nan  # finished answers, and those of them that took longer than they may
    long: float = nan
    gaps: float = nan  # gaps between tokens since the last step, and those of them over their bound
    slow: float = nan


class Bounds(NamedTuple):
    """Latency targets in seconds (infinite = none) and the clocks that the envelope grants, as shares."""

    tbt_s: float
    ttft_s: float
    gap_s: float  # mean gap between tokens over a long answer: the end-to-end bound
    min_x: float
    max_x: float
    default_x: float


def begin(s: list[float], p: Plant, long_prompt: float) -> None:
    """Memory of an engine that was never seen."""
    for i in range(S_SIZE):
        s[i] = 0.0
    s[S_X] = 1.0
    s[S_CHANGED] = -1e18
    s[S_PROVEN] = 1.0
    s[S_DECODE] = 1.0
    s[S_PREFILL] = 1.0
    s[S_WATT] = 1.0
    s[S_LONG] = long_prompt
    s[S_CHUNK] = p.chunk_tokens
    s[S_UNQUIET] = -1e18
    s[S_PRICE] = PRICE_FIRST
    s[S_MEET] = 1.0
    s[S_SLACK] = 1.0
    s[S_ANSWER] = 1.0
