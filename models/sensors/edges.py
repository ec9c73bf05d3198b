"""When a load began or ended, finer than readings say it: by the time that a busy counter counted. Pure.

A sensor that publishes every 100 ms shows an edge somewhere in these 100 ms; at 100 W of swing that is 5 J either way.
A counter that says "busy for 71 % of the last 200 ms" knows the same edge to a few milliseconds. Where both contradict
each other, the counter's timing is not what is assumed of it, and the readings stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.sensors.types import Floats

IDLE, FULL = 0.03, 0.97  # busy before and after an edge
STEP_RATIO = 0.2  # a smaller step is none: it is left to the readings


def placed(
    when: Floats,
    watts: Floats,
    busy: Floats,
    stretches: Sequence[tuple[int, int]],
    *,
    reach_s: float,
    period_s: float,
) -> Floats:
    """Readings with each short stretch of partial load between idle and full made one step at the counter's instant.

    Args:
        when, watts: readings where they belong in time.
        busy: the busy ratio of each.
        stretches: (first, after the last) of each stretch in which the ratio is neither idle nor full.
        reach_s: how far from an edge a reading may still show the other side.
        period_s: of the busy counter.
    """
    out = watts.copy()
    for first, last in stretches:
        if first > 0 and last < len(when):
            _place(when, watts, busy, first, last, reach_s=reach_s, period_s=period_s, out=out)
    return out


def _place(
    when: Floats,
    watts: Floats,
    busy: Floats,
    first: int,
    last: int,
    *,
    reach_s: float,
    period_s: float,
    out: Floats,
) -> None:
    before, after = busy[first - 1], busy[last]
    rises = before <= IDLE and after >= FULL
    if not rises and not (before >= FULL and after <= IDLE):
        return
    steps = np.diff(when[first : last + 1])
    ask_s = float(np.median(steps))
    # A value is seen half an asking interval late on average, and counts from the next asked instant on: another half.
    start_s, end_s = float(when[first]) - ask_s, float(when[last]) - ask_s
    periods = max(1.0, round((end_s - start_s) / period_s))
    counted_s = float(np.sum(busy[first:last] * steps) / np.sum(steps)) * periods * period_s
    edge_s = end_s - counted_s if rises else start_s + counted_s
    left = int(np.searchsorted(when, start_s - reach_s)) - 1
    right = int(np.searchsorted(when, end_s + reach_s, side="right"))
    if left < 0 or right >= len(when):
        return
    old_w, new_w = float(watts[left]), float(watts[right])
    if abs(new_w - old_w) < STEP_RATIO * max(old_w, new_w) or (new_w > old_w) != rises:
        return
    near_new = np.abs(watts[left : right + 1] - new_w) < np.abs(watts[left : right + 1] - old_w)
    turned_s = float(when[left + int(np.argmax(near_new))])
    if abs(edge_s - turned_s) > reach_s + 2 * ask_s:
        return
    between = slice(left + 1, right)
    # A trapezoid between two readings puts the step in their middle: the nearest reading to the edge is shared.
    share = np.clip((when[between] - edge_s) / ask_s + 0.5, 0.0, 1.0)
    out[between] = old_w + share * (new_w - old_w)
