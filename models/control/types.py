"""Values that go into and come out of the local controller. Nothing else: no rules, no arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the serving engine said last; unknown is None."""

    age_s: float  # since the engine gave these numbers
    running: int | None
    waiting: int | None
    waiting_tokens: int | None  # prompt tokens not yet prefilled
    kv_tokens: int | None


@dataclass(frozen=True, slots=True)
class Targets:
    """Latency bounds in milliseconds; None = no bound known."""

    tbt_ms: float | None
    ttft_ms: float | None
    e2e_ms: float | None


@dataclass(frozen=True, slots=True)
class ClockBounds:
    """What the live envelope and the device allow, in MHz."""

    min_mhz: int
    max_mhz: int
    default_mhz: int
    step_mhz: int


@dataclass(frozen=True, slots=True)
class Window:
    """What was prefilled between two readings of an engine, and how long that was by each of two clocks."""

    prompt_tokens: float
    stamped_s: float | None  # by the readings' time stamps, which a machine short of time sets late; None = cannot be
    engine_s: float | None  # by the engine's own tokens and gaps; None where it does not say


@dataclass(frozen=True, slots=True)
class Observed:
    """What was measured since the step before; feeds the learned ratios. Unknown is None."""

    tbt_mean_ms: float | None
    sm_mhz: int | None
    power_w: float | None  # mean of one GPU
    prompt_tokens_per_s: float | None = None  # prefill rate: tells mixed iterations from pure decode
    tbt_p99_ms: float | None = None
    first_tokens: float | None = None  # and those of them later than the target of the first token
    late_first_tokens: float | None = None
    answers: float | None = None  # and those of them longer than the end-to-end target
    long_answers: float | None = None
    gaps: float | None = None  # between tokens, and those of them clearly over their bound
    slow_gaps: float | None = None
    window: Window | None = None  # the same prefill as a count, and how long it took
    limit_w: float | None = None  # power limit in force on the tightest of the GPUs


@dataclass(frozen=True, slots=True)
class Decision:
    """Wanted upper clock lock of all GPUs of the engine; None = release to default."""

    sm_mhz: int | None
    reason: str
    chunk_tokens: int | None = None  # where the engine takes one
    limit_w: float | None = None  # wanted power limit of each GPU, for jobs that use that knob; None = the ceiling


@dataclass(frozen=True, slots=True)
class Health:
    """How well an engine's model predicts it. Errors are measured / predicted - 1; None = not judged or not known."""

    decode_ratio: float | None = None
    prefill_ratio: float | None = None
    power_ratio: float | None = None
    time_error: float | None = None  # of the newest window
    power_error: float | None = None
    recalibrating: bool = False
    slack: float | None = None  # the least that late first tokens, gaps and answers leave; None: nobody has counted yet
    wait_price_w: float | None = None  # watts that a running sequence is counted at
    meet: float | None = None  # how much of the share of time in prefill a token meets
