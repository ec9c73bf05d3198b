"""What is known of a device and of a serving stack: the numbers behind both the twin and the controller's predictions.

One table per stack, because set points do not transfer between models (leave-one-model-out errors are 15 % in time).
It must not hold equations: `predict` (scalar) and `models.twin.device` (vectorised) do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TWIN_STACK: Final = "llama-3.1-70b/bf16/twin/h100x4"


@dataclass(frozen=True, slots=True)
class DeviceCurve:
    """One GPU model: clocks, peaks, and watts as a function of clock and load; x = clock / fmax_mhz.

    P = static_w + memory_w * u_mem + (clock_w + flop_w * u_flop / x) * g(x), with g(x) = x * v(x)**2 and v falling
    linearly from 1 at x = 1 to v_min at x_knee. The split between clock-dependent and other watts is not identifiable
    from full-clock data, hence three variants (see models.twin.params).
    """

    name: str
    fmax_mhz: float
    fmin_mhz: float
    step_mhz: float
    static_w: float
    memory_w: float
    clock_w: float
    flop_w: float
    v_min: float
    x_knee: float
    idle_w: float  # context loaded, clock part excluded
    idle_clock_w: float  # times g(x)
    bandwidth_bytes_s: float
    flop_s: float
    limit_default_w: float
    limit_min_w: float
    limit_max_w: float


@dataclass(frozen=True, slots=True)
class StackProfile:
    """Model x precision x engine x GPU: what one iteration of continuous batching costs. Bytes and FLOP are per GPU.

    t = (overhead_s + sequence_s * running) * s + ((t_mem * m)**4 + (t_comp / x)**4)**(1/4), s = 1 - phi + phi / x,
    m = ((1 + (x0 / x)**4) / (1 + x0**4))**(1/4): bandwidth lost below the clock x0.
    """

    name: str
    gpus: int
    device: DeviceCurve
    weight_bytes: float
    kv_bytes_per_token: float
    flop_per_token: float
    bandwidth_share: float  # of the device's peak that decode reaches
    flop_share: float  # model FLOP utilisation of prefill
    overhead_s: float
    sequence_s: float  # per running sequence (sampling, scheduling)
    x0: float
    phi: float  # clock-dependent share of the overheads
    chunk_tokens: int  # chunked prefill: tokens of one iteration, decode included
    min_prefill_tokens: int  # a chunk never leaves prefill less than this
    kv_limit_tokens: int
    max_sequences: int
    typical_prompt_tokens: float  # for the time to first token of the next request
    long_output_tokens: float  # for the 99th percentile of end-to-end


# Peaks: vendor data sheet (SXM5, dense bf16). Clocks 345-1980 MHz in steps of 15, limit 200-700 W: as NVML lists them.
# static, memory, clock, flop: fitted to the ML.ENERGY leaderboard's 70B runs at full clock; v_min, x_knee: voltage knee
# of the Zeus V100 sweeps (0.70 / 0.70) and A40 sweeps (0.70 / 0.50). Idle: 115 W loaded at full clock, 70 W without.
H100_SXM: Final = DeviceCurve(
    name="NVIDIA H100 80GB HBM3",
    fmax_mhz=1980.0,
    fmin_mhz=345.0,
    step_mhz=15.0,
    static_w=110.0,
    memory_w=180.0,
    clock_w=192.0,
    flop_w=930.0,
    v_min=0.70,
    x_knee=0.60,
    idle_w=70.0,
    idle_clock_w=45.0,
    bandwidth_bytes_s=3.35e12,
    flop_s=989e12,
    limit_default_w=700.0,
    limit_min_w=200.0,
    limit_max_w=700.0,
)

# 70.6e9 weights at 2 bytes over 4 GPUs; 80 layers x 8 KV heads x 128 x 2 x 2 bytes over 4 GPUs. Bandwidth share,
# overheads: batch-to-latency curve of the same leaderboard (5 % held-out error). MFU 0.46: 2,083 prompt tokens in
# 0.189 s and 4,166 in 0.350 s on 4 H100. x0, phi: clock-to-throughput cross-overs on RTX PRO 6000 (0.49-0.81).
LLAMA_70B_H100X4: Final = StackProfile(
    name=TWIN_STACK,
    gpus=4,
    device=H100_SXM,
    weight_bytes=70.6e9 * 2 / 4,
    kv_bytes_per_token=81_920.0,
    flop_per_token=2 * 70.6e9 / 4,
    bandwidth_share=0.61,
    flop_share=0.46,
    overhead_s=1.5e-3,
    sequence_s=58.2e-6,
    x0=0.55,
    phi=0.5,
    chunk_tokens=512,
    min_prefill_tokens=64,
    kv_limit_tokens=400_000,
    max_sequences=256,
    typical_prompt_tokens=1_024.0,
    long_output_tokens=600.0,
)

PROFILES: Final[dict[str, StackProfile]] = {LLAMA_70B_H100X4.name: LLAMA_70B_H100X4}


def profile_for(stack: str) -> StackProfile | None:
    """The profile of a stack name; None when nothing is known of it (the controller then stays near default)."""
    return PROFILES.get(stack)
