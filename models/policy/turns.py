"""When a node's next envelope is due: each node has its own place in the interval, so that a fleet is no burst."""

from __future__ import annotations

import zlib


def turn_s(node: str, now_s: float, interval_s: float) -> float:
    """The moment from which the next interval counts, in the seconds of `now_s`, after an envelope was issued now.

    The next envelope comes at the node's own place (by the checksum of its name), half an interval from now at the
    earliest and one and a half at the latest, which lies within every lease that the settings allow.
    """
    place = zlib.crc32(node.encode()) / 2**32 * interval_s
    earliest = now_s + interval_s / 2
    return earliest + (place - earliest) % interval_s - interval_s
