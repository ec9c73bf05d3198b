"""Two hundred BMCs polled by one process: what three bad ones cost the others. `python -m tests.bench.bench_bmc`

The good ones are polled alone and together with one that hangs, one that answers 500 and one that gives half of each
document, in turns, so that a busy machine weighs on both alike. Prints milliseconds per poll, the ratio, and the
sessions left open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import statistics
import time
from dataclasses import dataclass, field

from agents.node.bmc.poller import Access, BmcPoller
from agents.node.bmc.session import Credentials
from tests.fakes.bmc.logic import PASSWORD, USER, FakeBmc
from tests.fakes.bmc.model import Machine
from tests.fakes.bmc.server import BmcServers

BAD = ({"hang"}, {"error_5xx"}, {"half_json"})
EVERY_S = 5.0
ANSWER_S = 0.02  # what a BMC takes for one answer; real ones take more


@dataclass
class Phase:
    """Seconds of each poll of the good ones."""

    polls: list[float] = field(default_factory=list)


async def _poll(poller: BmcPoller, phase: Phase | None, first_s: float, ends: float) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time() + first_s
    while due < ends:
        await asyncio.sleep(due - loop.time())
        began = loop.time()
        await poller.poll()
        if phase is not None:
            phase.polls.append(loop.time() - began)
        due = max(due + EVERY_S, loop.time())


async def _phase(good: list[BmcPoller], bad: list[BmcPoller], phase: Phase, seconds: float) -> None:
    """Polls spread evenly over the interval, as a fleet's are."""
    ends = asyncio.get_running_loop().time() + seconds
    step = EVERY_S / (len(good) + len(bad))
    jobs = [_poll(p, phase, n * step, ends) for n, p in enumerate(good)]
    await asyncio.gather(*jobs, *(_poll(p, None, n * step, ends) for n, p in enumerate(bad)))


async def _run(urls: list[str], seconds: float, turns: int) -> tuple[Phase, Phase]:
    who = Credentials(USER, PASSWORD)
    pollers = [BmcPoller(Access(url=url, credentials=who)) for url in urls]
    bad, good = pollers[: len(BAD)], pollers[len(BAD) :]
    await asyncio.gather(*(poller.poll() for poller in good))  # find what there is
    alone, together = Phase(), Phase()
    for _ in range(turns):
        await _phase(good, [], alone, seconds)
        await _phase(good, bad, together, seconds)
    await asyncio.gather(*(poller.close() for poller in pollers))
    assert all(poller.last is not None and poller.problem is None for poller in good)
    return alone, together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bmcs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    faults = [*BAD, *[{"slow"}] * (args.bmcs - len(BAD))]
    bmcs = [FakeBmc(machine=Machine(gpus=1), faults=set(names)) for names in faults]
    with BmcServers(delay_s=ANSWER_S) as servers:
        urls = [servers.add(bmc) for bmc in bmcs]
        cpu = time.thread_time()
        alone, together = asyncio.run(_run(urls, args.seconds, args.turns))
        cpu = time.thread_time() - cpu
        left = sum(len(bmc.sessions) for bmc in bmcs)
    mean = [statistics.fmean(phase.polls) * 1e3 for phase in (alone, together)]
    middle = [statistics.median(phase.polls) * 1e3 for phase in (alone, together)]
    polls = len(alone.polls) + len(together.polls)
    print(
        json.dumps(
            {
                "bmcs": args.bmcs,
                "polls_alone": len(alone.polls),
                "polls_together": len(together.polls),
                "mean_ms": [round(value, 2) for value in mean],
                "median_ms": [round(value, 2) for value in middle],
                "ratio_mean": round(mean[1] / mean[0], 4),
                "ratio_median": round(middle[1] / middle[0], 4),
                "client_cpu_ms_per_poll": round(cpu * 1e3 / polls, 2),
                "sessions_opened": sum(bmc.sessions_opened for bmc in bmcs),
                "sessions_left_open": left,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
