"""Named failpoints for fault tests: EO_FAILPOINT="name:action[:nth]", action kill, raise or sleep-<ms>.

Off, a failpoint costs one dictionary look-up.

A name is hit by calling `hit(name)` where a crash would hurt most; tests assert that each name was reached.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Final

NAMES: Final = frozenset(
    {
        "agent.after_sample",
        "agent.before_spool_write",
        "agent.after_write_before_fsync",
        "agent.after_produce_before_ack",
        "agent.after_ack_before_trim",
        "agent.cmd_after_verify",
        "capper.after_hwm_fsync",
        "capper.after_save_before_set",
        "capper.after_set_before_readback",
        "capper.before_restore",
        "capper.before_ack",
        "streams.after_poll",
        "streams.after_effect_before_store",
        "streams.in_rebalance",
        "streams.in_transaction",
        "archive.mid_rowgroup",
        "archive.before_footer",
        "archive.before_rename",
        "archive.after_rename_before_commit",
    }
)
_plan: dict[str, tuple[str, int]] | None = None
_hits: dict[str, int] = {}


class FailpointRaised(RuntimeError):
    """Raised by the action "raise"."""


def _parse(text: str) -> dict[str, tuple[str, int]]:
    plan: dict[str, tuple[str, int]] = {}
    for part in filter(None, text.split(",")):
        name, action, *nth = part.split(":")
        if name not in NAMES:
            raise ValueError(f"EO_FAILPOINT names {name!r}, which does not exist; one of {', '.join(sorted(NAMES))}")
        plan[name] = (action, int(nth[0]) if nth else 1)
    return plan


def hit(name: str) -> None:
    """Does what EO_FAILPOINT asks for at this name; nothing in normal operation."""
    global _plan
    if _plan is None:
        _plan = _parse(os.environ.get("EO_FAILPOINT", ""))
    if not _plan or name not in _plan:
        return
    action, nth = _plan[name]
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] != nth:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise FailpointRaised(name)
    elif action.startswith("sleep-"):
        time.sleep(float(action.removeprefix("sleep-")) / 1000)


def arm(text: str) -> None:
    """Sets the plan from inside a test process; arm("") disarms."""
    global _plan
    _plan = _parse(text)
    _hits.clear()


def count(name: str) -> int:
    """How often an armed name was reached."""
    return _hits.get(name, 0)
