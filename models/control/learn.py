"""What the local controller learns of an engine while it runs: load, two ratios, how often bounds were missed.

Floats only: the bench compiles this source. It judges predictions and never chooses a clock.
"""

from __future__ import annotations

from math import exp, isfinite, isnan, log, nan
from typing import Final

from models.control.equations import Plant, iteration_s, under_limit
from models.control.memory import (
    S_ANSWER,
    S_BAD,
    S_CHUNK,
    S_COUNTED,
    S_DECODE,
    S_DONE,
    S_GAP_COUNT,
    S_GAP_SUM,
    S_GAPS,
    S_KV,
    S_LONG,
    S_MEET,
    S_OUT,
    S_PREFILL,
    S_PRICE,
    S_PRICED,
    S_PROMPTS,
    S_RATE,
    S_RECALIBRATE,
    S_RUNNING,
    S_SLACK,
    S_STARTED,
    S_TIME,
    S_WATT,
    S_X,
    SLACK_FIRST,
    Bounds,
    Load,
    Tuning,
)
from models.control.steady import Flow

RATIO_MIN: Final = 0.5
RATIO_MAX: Final = 2.0
SLOW_S: Final = 20.0  # a long answer takes about this long
BAD_LOG: Final = 0.18  # a window whose time is this far (20 %) from the prediction does not count as predicted
END_LOG: Final = 0.05  # the same where a ratio is at its end: what is beyond it cannot be learned
RECALIBRATE_S: Final = 5.0
GAP_S: Final = 60.0  # over which the mean gap between tokens is taken
PRICE_S: Final = 75.0  # in which a gap that is 10 % off moves the price by a tenth
PRICE_MIN: Final = 1.0
PRICE_MAX: Final = 100_000.0
MEET_S: Final = 300.0
MEET_MIN: Final = 0.1
MEET_MAX: Final = 1.5
LATE_SHARE: Final = 0.01  # the bounds are 99th percentiles
SLACK_MIN: Final = 0.02  # least that clocks are chosen by; what is late beyond it is owed
SLACK_OWED: Final = 0.002  # some fifty late ones of debt, where one shrinks the slack by a twentieth
SLACK_MAX: Final = 3.0
SHORT_CHUNKS: Final = 3.0  # prompts of up to so many of the engine's own chunks are short
FEW: Final = 100.0  # prompts in which a guess of how long they are is forgotten
MOST_LOG: Final = 20.0  # of one change: more would leave any range anyway, and floats after it
ANSWER_MIN: Final = 0.85
ANSWER_MAX: Final = 1.15
ANSWER_LOW: Final = 0.9  # of the mean gap's target, below which more replicas are asked for too
ANSWER_FOLD: Final = 0.05  # so much of it is a factor e of slack


def bounded(ratio: float) -> float:
    return min(RATIO_MAX, max(RATIO_MIN, ratio))


def capped(change_log: float) -> float:
    return min(MOST_LOG, max(-MOST_LOG, change_log))


def bad_log(s: list[float]) -> float:
    """From which distance on a window does not count as predicted."""
    return END_LOG if max(s[S_DECODE], s[S_PREFILL]) >= RATIO_MAX else BAD_LOG


def room_of(p: Plant, chunk: float, running: float) -> float:
    """Prompt tokens that fit one iteration beside the running sequences."""
    return max(chunk - running, p.min_prefill_tokens)


def short(p: Plant, s: list[float]) -> bool:
    """Whether even long prompts are over before a clock could react: all of their time is at the set point."""
    return s[S_LONG] <= SHORT_CHUNKS * p.chunk_tokens


def learn(p: Plant, u: Tuning, s: list[float], load: Load, now_s: float, span_s: float) -> None:
    """Compares the last window with the model: two ratios, and whether the model still predicts."""
    if u.learns <= 0.0 or load.running <= 0.0 or isnan(load.prefilled) or span_s <= 0.0:
        return
    room = room_of(p, s[S_CHUNK], load.running)
    _, mixed, watts = under_limit(p, load.x, load.running, load.kv, room, p.limit_w)
    decode = iteration_s(p, load.x, load.running, load.kv, 0.0)
    fast = now_s < s[S_RECALIBRATE]
    gain = 0.5 if fast else u.gain
    error = nan
    # A window with part of a chunk in it says nothing: its mixed iteration may be of any length.
    clear = load.prefilled <= 0.0 or load.prefilled >= 2.0 * room
    if clear and isfinite(load.mean_s) and load.mean_s > 0.0:
        share = min(1.0, load.prefilled / room * load.mean_s / span_s)
        a, b = (1.0 - share) * decode, share * mixed
        miss = load.mean_s - s[S_DECODE] * a - s[S_PREFILL] * b
        error = log(load.mean_s / (s[S_DECODE] * a + s[S_PREFILL] * b))
        step = gain * miss / (a * a + b * b)
        s[S_DECODE] = bounded(s[S_DECODE] + step * a)
        s[S_PREFILL] = bounded(s[S_PREFILL] + step * b)
    if isfinite(load.tail_s) and load.tail_s > 0.0:
        # Nothing is longer than a full mixed iteration: more is an error in any window, less only in a full one.
        miss = load.tail_s / mixed - s[S_PREFILL]
        if miss > BAD_LOG * s[S_PREFILL]:
            tail = log(load.tail_s / mixed / s[S_PREFILL])
            error = max(error, tail) if error > 0.0 else tail
        if miss > 0.0:
            s[S_PREFILL] = bounded(s[S_PREFILL] + gain * miss)
        elif load.prefilled >= 2.0 * room:
            s[S_PREFILL] = bounded(s[S_PREFILL] + (gain if fast else u.gain_down) * miss)
    if u.learns >= 2.0:
        s[S_DECODE] = s[S_PREFILL] = 0.5 * (s[S_DECODE] + s[S_PREFILL])
    judge(s, error, now_s, fast)
    if isfinite(load.watts) and load.watts > 0.0 and watts > 0.0:
        s[S_WATT] += 0.02 * (min(2.0, load.watts / watts) - s[S_WATT])


def judge(s: list[float], error: float, now_s: float, fast: bool) -> None:
    """Three windows in a row that the model did not predict: default clocks while the ratios are learned anew.

    They stay for as long as the engine is slower than any ratio that is learned.
    """
    if fast or now_s - s[S_STARTED] < RECALIBRATE_S:
        s[S_BAD] = 0.0
        if fast and error > END_LOG and bad_log(s) < BAD_LOG:
            s[S_RECALIBRATE] = now_s + RECALIBRATE_S
        return
    if isnan(error):
        return  # a window that says nothing neither proves nor disproves the model
    if abs(error) <= bad_log(s):
        s[S_BAD] = 0.0
        return
    s[S_BAD] += 1.0
    if s[S_BAD] >= 3.0:
        s[S_BAD] = 0.0
        s[S_RECALIBRATE] = now_s + RECALIBRATE_S


def reprice(p: Plant, s: list[float], load: Load, to: Bounds, span_s: float) -> None:
    """The price of a running sequence follows the mean gap's distance from its target; 0 where there is no bound.

    A bound on whole answers is one on the sum of thousands of gaps, so it need not hold in every window: what is dear
    in a burst is bought in a lull. One price for all windows is what buys it for the least energy.
    """
    if not to.gap_s < 1e6:
        s[S_PRICE] = 0.0
        return
    if isnan(load.mean_s) or isnan(load.generated):
        return
    keep = exp(-span_s / GAP_S)
    s[S_GAP_SUM] = keep * s[S_GAP_SUM] + load.generated * load.mean_s
    s[S_GAP_COUNT] = keep * s[S_GAP_COUNT] + load.generated
    if s[S_PRICED] <= 0.0:
        return
    error = s[S_GAP_SUM] / max(s[S_GAP_COUNT], 1.0) / (to.gap_s * s[S_ANSWER]) - 1.0
    price = s[S_PRICE] * exp(capped(span_s / PRICE_S * min(0.5, max(-0.5, error))))
    s[S_PRICE] = min(PRICE_MAX, max(PRICE_MIN, price))
    meet(p, s, span_s)


def meet(p: Plant, s: list[float], span_s: float) -> None:
    """How much of the time in prefill a token meets, from the mean gap: between a decode and a mixed iteration."""
    if s[S_GAP_COUNT] < 50.0 or s[S_RATE] <= 0.0:
        return
    running = max(s[S_RUNNING], 1.0)
    room = room_of(p, s[S_CHUNK], running)
    mixed = s[S_PREFILL] * iteration_s(p, s[S_X], running, s[S_KV], room)
    decode = s[S_DECODE] * iteration_s(p, s[S_X], running, s[S_KV], 0.0)
    busy = min(1.0, s[S_RATE] * mixed / room)
    if busy < 0.02 or mixed < 1.02 * decode:
        return
    seen = (1.0 / decode - s[S_GAP_COUNT] / s[S_GAP_SUM]) / (1.0 / decode - 1.0 / mixed)
    found = min(MEET_MAX, max(MEET_MIN, seen / busy))
    s[S_MEET] += (1.0 - exp(-span_s / MEET_S)) * (found - s[S_MEET])


def follow(s: list[float], load: Load, now_s: float) -> None:
    """Mean load over about the duration of a long answer, and a long prompt as a slowly falling maximum."""
    span = max(0.0, now_s - s[S_TIME])
    share = 1.0 - exp(-span / SLOW_S)
    if s[S_STARTED] <= 0.0:
        share = 1.0
        s[S_STARTED] = now_s
    s[S_RUNNING] += share * (load.running - s[S_RUNNING])
    s[S_KV] += share * (load.kv - s[S_KV])
    if not isnan(load.prefilled):
        s[S_DONE] += load.prefilled
        if span > 0.0:
            s[S_RATE] += share * (load.prefilled / span - s[S_RATE])
    if not isnan(load.generated) and span > 0.0:
        s[S_OUT] += share * (load.generated / span - s[S_OUT])
    if load.longest > 0.0:
        # Up by 99 parts, down by one: settles near the 99th percentile of what arrives. What it begins with is a guess.
        if s[S_PROMPTS] < FEW:
            s[S_PROMPTS] += 1.0
            s[S_LONG] = max(load.longest, 0.98 * s[S_LONG])
        s[S_LONG] *= 1.0 + 0.01 * (0.99 if load.longest > s[S_LONG] else -0.01)
        s[S_LONG] = max(s[S_LONG], 0.5 * load.longest)
    s[S_TIME] = now_s


def slack_of(s: list[float]) -> float:
    """What the first token's slack is multiplied by now."""
    return max(SLACK_MIN, s[S_SLACK])


def spare(s: list[float]) -> float:
    """What is left of all bounds that are counted, for whoever grants capacity: the least of first tokens, gaps and
    whole answers, as a slack. Answers have used theirs up near the end of what shorter gaps can make good.
    """
    left = slack_of(s)
    if s[S_GAPS] > 0.0:
        left = min(left, max(SLACK_MIN, s[S_GAPS]))
    if s[S_ANSWER] != 1.0:
        left = min(left, max(SLACK_MIN, SLACK_FIRST * exp((s[S_ANSWER] - ANSWER_LOW) / ANSWER_FOLD)))
    return left


def flow_of(s: list[float]) -> Flow:
    """The mean load of the last seconds with what is learned of the stack."""
    each = s[S_KV] / s[S_RUNNING] if s[S_RUNNING] > 0.5 else s[S_LONG] * 0.5
    return Flow(s[S_RATE], s[S_OUT], each, s[S_DECODE], s[S_PREFILL], s[S_MEET])


def chance(u: Tuning, s: list[float], load: Load) -> None:
    """A bound on one in a hundred is kept by counting: each that is late takes room away, each in time gives some back.

    The share of late ones settles at LATE_SHARE wherever the factor is inside its range. What came late while clocks
    could do no more is remembered below SLACK_MIN and made up for later: the bound is one on hours, not on minutes.
    """
    if load.firsts > 0.0:
        if s[S_COUNTED] <= 0.0:
            s[S_COUNTED], s[S_SLACK] = 1.0, SLACK_FIRST
        change = exp(capped(u.late_gain * (LATE_SHARE * load.firsts - load.late)))
        s[S_SLACK] = min(SLACK_MAX, max(SLACK_OWED, s[S_SLACK] * change))
    if load.gaps > 0.0:
        change = exp(capped(u.gap_gain * (LATE_SHARE * load.gaps - load.slow)))
        s[S_GAPS] = min(SLACK_MAX, max(SLACK_OWED, (s[S_GAPS] if s[S_GAPS] > 0.0 else SLACK_FIRST) * change))
    if load.answers > 0.0:
        change = exp(capped(u.long_gain * (LATE_SHARE * load.answers - load.long)))
        s[S_ANSWER] = min(ANSWER_MAX, max(ANSWER_MIN, s[S_ANSWER] * change))
