"""How many replicas serve, on which nodes: the slow controller. It grants capacity; clocks are the node's matter.

Fewer replicas at a higher clock beat many at a low one at the wall, because a live node costs its host. The planner
prices every number of replicas with the same model that the local controller uses, and keeps those that carry the
forecast's upper bound at default clocks. Called every 5-60 s with everything as arguments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, inf, isfinite, nan
from typing import Final

from models.control import steady
from models.control.equations import Plant
from models.control.steady import BUSY_MAX, SEATS_MAX, Flow, filled
from models.policy.bandit import Choice, ShieldedBandit
from models.policy.density import LOOSEST, Density, whole
from models.policy.forecast import Forecast, RateForecast
from models.policy.off_policy import Logged

Cheapest = Callable[[Plant, Flow, float, float, float, float, float, float, float], tuple[float, float, float, float]]
TopRate = Callable[[Plant, Flow, float, float], float]
SETTLE_S: Final = 60.0
LEARN_S: Final = 900.0  # a choice of the bandit holds this long
EARN_S: Final = 1800.0  # a lower number must earn its later starts within this time
SURGE: Final = 3.0  # times the present rate that may come within a boot while no day is known
SURGE_BUSY: Final = 0.9  # share of time in prefill during a surge
CROWD: Final = 0.5  # how much longer a first token may take than on all replicas, at a packing of 0.7
EXTRA: Final = 3  # choices: as few as carry the load, one more, two more


@dataclass(frozen=True, slots=True)
class NodeCost:
    """Watts and seconds of a node; assumptions are stated in docs/benchmarks/control.md."""

    replicas: int = 2
    host_w: float = 1500.0
    host_per_gpu_w: float = 0.2
    supply_ratio: float = 0.95
    bare_w: float = 70.0
    off_w: float = 40.0
    boot_s: float = 420.0
    boot_w: float = 100.0


@dataclass(frozen=True, slots=True)
class Packing:
    """How densely a strategy packs. Frozen on the training days."""

    busy_upper: float = 0.70  # share of time in prefill at default clocks, at the forecast's upper bound
    busy_spare: float = 0.95  # the same with one replica lost, at the present rate (N+1)
    down_after_s: float = 600.0  # a lower number must be wanted for this long
    up_after_s: float = 600.0  # so must a higher one that only saves energy
    min_warm: int = 2
    z: float = 2.0
    past_weight: float = 1.0
    wear_j: float = 2.0e5  # what one start must earn beyond its own energy
    price: float = 1.0  # weight of a watt at the wall (price, carbon); only ratios over time matter
    error_floor: float = 0.06
    first: float = 1.0  # share of the packing to begin with: counting late first tokens brings it up


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the strategy bounds, in seconds, and the clock and chunk range of the local controller."""

    tbt_s: float
    gap_s: float
    min_x: float
    chunk_min: float
    chunk_max: float


@dataclass(frozen=True, slots=True)
class Seen:
    """The pool since the last step; NaN = unknown."""

    rate: float  # requests/s
    prompt_tokens: float  # mean per request
    output_tokens: float
    kv_each: float
    serving: int  # on or starting
    total: int
    prefill_ratio: float = 1.0
    decode_ratio: float = 1.0
    slack: float = 1.0  # below 1: more first tokens came late than may, so it is packed less densely; NaN: uncounted
    price_w: float = nan  # what the replicas count for a running sequence; unknown: the mean gap is a hard bound
    meet: float = 1.0  # how much of the share of time in prefill a token meets
    wall_w: float = nan  # measured since the last step; what the bandit learns from
    weight: float = 1.0  # what energy is worth now over its mean (price, carbon): wear does not get cheaper with it


@dataclass(frozen=True, slots=True)
class Decision:
    """How many should serve and why; `fields` are the numbers behind the sentence."""

    replicas: int
    reason: str
    fields: dict[str, float] = field(default_factory=dict)


def surge(ahead: Forecast) -> float:
    """Requests/s that may come before another replica has started: any load may become three times as much until a day
    is known; after it, what the last week has shown, in requests/s and as a share, whichever is less now.
    """
    if not ahead.known:
        return SURGE * ahead.now
    return max(ahead.expected, min(ahead.now + ahead.jump, ahead.now * ahead.jump_ratio))


class ReplicaPlanner:
    """One pool of equal replicas."""

    def __init__(
        self,
        plant: Plant,
        packing: Packing,
        wishes: Wishes,
        node: NodeCost,
        *,
        cheapest: Cheapest = steady.cheapest,
        top_rate: TopRate = steady.top_rate,
        bandit: ShieldedBandit | None = None,
    ) -> None:
        self._plant, self._packing, self._wishes, self._node = plant, packing, wishes, node
        self._cheapest, self._top_rate = cheapest, top_rate
        self.forecast = RateForecast(z=packing.z, past_weight=packing.past_weight, error_floor=packing.error_floor)
        self._wanted: deque[tuple[float, int]] = deque()  # when which number was wanted, since the last change
        self._prompt: float | None = None
        self._output: float | None = None
        self._bandit = bandit
        self._choice: Choice | None = None
        self._chosen_s = 0.0
        self._density = Density(packing.first)
        self._stepped_s = -inf
        self._spent: list[float] = []
        self.log: list[Logged] = []

    def step(self, now_s: float, span_s: float, seen: Seen) -> Decision:
        """One decision. Unknown measurements keep what is: capacity is never taken away blindly."""
        if not isfinite(seen.rate) or seen.rate < 0.0:
            return Decision(seen.serving, "The request rate is unknown, so the number of replicas stays.")
        if now_s < self._stepped_s:
            # The clock went back: wishes from its future would stand until then.
            self._wanted.clear()
            self._chosen_s = min(self._chosen_s, now_s)
        self._stepped_s = now_s
        self.forecast.observe(now_s, seen.rate, span_s)
        self._learn_lengths(seen, span_s)
        self._density.learn(now_s, span_s, seen.slack)
        ahead = self.forecast.ahead(now_s, self._node.boot_s + SETTLE_S)
        if self._prompt is None or self._output is None:
            return Decision(seen.serving, "No request has been seen yet, so the number of replicas stays.")
        least = self.least(ahead, seen)
        best, watts = self._best(least, ahead.now, seen)
        if self._bandit is not None:
            best, watts = self._learned(now_s, least, ahead.now, seen)
        return self._switch(now_s, best, least, watts, ahead=ahead, seen=seen)

    @property
    def plant(self) -> Plant:
        return self._plant

    def rolled_back(self, now_s: float) -> None:
        """Default clocks had to be kept: too many missed the SLO. The whole fleet serves, and packs again slowly."""
        self._density.rolled_back(now_s)

    def aim(self, wishes: Wishes) -> None:
        """Bounds that moved, e.g. with the hold-out's latency."""
        self._wishes = wishes

    def least(self, ahead: Forecast, seen: Seen) -> int:
        """The fewest replicas that carry the upper bound at default clocks, and the present rate with one lost."""
        capacity = self._capacity(seen)
        prompt = self._prompt or 0.0
        looser = self._density.of(seen.slack)
        busy = self._packing.busy_upper * looser
        upper = ahead.upper * prompt / (capacity * busy)
        spare = ahead.now * prompt / (capacity * self._packing.busy_spare) + 1.0
        least = min(seen.total, max(self._packing.min_warm, ceil(upper - 1e-9), ceil(spare - 1e-9)))
        least = max(self._uncrowded(least, ahead.now, looser, seen), whole(looser, seen.total))
        least = self._carrying(least, ahead.upper, BUSY_MAX, seen)
        return self._carrying(least, surge(ahead), SURGE_BUSY, seen)

    def _carrying(self, least: int, rate: float, busy: float, seen: Seen) -> int:
        """The fewest, from `least` on, that carry a rate at default clocks in time, in seats and in the cache."""
        while least < seen.total:
            flow = self.flow(rate, least, seen)
            at = steady.steady(self._plant, flow, 1.0, self._chunk())
            if at.busy <= busy and filled(self._plant, flow, at.running) <= SEATS_MAX:
                break
            least += 1
        return least

    def _uncrowded(self, least: int, rate: float, looser: float, seen: Seen) -> int:
        """The fewest, from `least` on, on which a first token takes little longer than on all replicas: how little is
        learned with the packing. A short prompt hardly loads an engine, but waits for all that runs beside it.
        """
        room = CROWD * (looser - LOOSEST) / (1.0 - looser) if looser < 1.0 else inf
        most = self._first_s(seen.total, rate, seen) * (1.0 + room)
        while least < seen.total and self._first_s(least, rate, seen) > most:
            least += 1
        return least

    def _first_s(self, replicas: int, rate: float, seen: Seen) -> float:
        """Seconds to the first token of a mean prompt at default clocks: the iteration that runs, and its own."""
        at = steady.steady(self._plant, self.flow(rate, replicas, seen), 1.0, self._chunk())
        return at.decode_s + (self._prompt or 0.0) / at.prefill_rate

    def flow(self, rate: float, replicas: int, seen: Seen) -> Flow:
        """One replica's share of a rate."""
        each = rate / max(replicas, 1)
        kv = seen.kv_each if isfinite(seen.kv_each) and seen.kv_each > 0.0 else (self._prompt or 0.0) * 1.2
        return Flow(
            each * (self._prompt or 0.0),
            each * (self._output or 0.0),
            kv,
            seen.decode_ratio,
            seen.prefill_ratio,
            seen.meet,
        )

    def _capacity(self, seen: Seen) -> float:
        """Prompt tokens per second of a replica at default clocks while it prefills."""
        crowd = 8.0 + 10.0 * min(1.0, (self._output or 0.0) / 100.0)
        return self._top_rate(self._plant, self.flow(0.0, 1, seen), self._chunk(), crowd)

    def _chunk(self) -> float:
        """Tokens of the largest chunk that the engine is asked for; its own where it takes none."""
        return self._wishes.chunk_max if self._wishes.chunk_max > 0.0 else self._plant.chunk_tokens

    def wall_w(self, replicas: int, gpu_w: float, total: int) -> float:
        """Watts at the wall of the pool's nodes with so many replicas at this power."""
        node, gpus = self._node, self._plant.gpus
        live = ceil(replicas / node.replicas)
        bare = (min(live * node.replicas, total) - replicas) * gpus * node.bare_w
        dark = max(0, ceil(total / node.replicas) - live)
        watts = replicas * gpus * gpu_w + bare
        return (watts * (1.0 + node.host_per_gpu_w) + live * node.host_w + dark * node.off_w) / node.supply_ratio

    def _best(self, least: int, rate: float, seen: Seen) -> tuple[int, float]:
        """The number of replicas from `least` on that costs least at the wall; stops when more no longer helps."""
        best, least_cost, best_w, worse = least, inf, inf, 0
        for replicas in range(least, seen.total + 1):
            cost, watts = self._costs(replicas, rate, seen)
            if cost < inf and not cost > least_cost - 0.005 * watts:
                best, least_cost, best_w, worse = replicas, cost, watts, 0
            elif least_cost < inf:
                worse += 1
            if worse >= 4:
                break
        # Where no number keeps the bounds, taking capacity away would make it worse.
        return (best, best_w) if best_w < inf else (max(least, seen.serving), inf)

    def _learned(self, now_s: float, least: int, rate: float, seen: Seen) -> tuple[int, float]:
        """The bandit's choice among numbers that all carry the load: its shield is `least`."""
        assert self._bandit is not None
        prices = [self.price(n, rate, seen) for n in range(least, min(least + EXTRA, seen.total + 1))]
        feasible = [k for k, price in enumerate(prices) if isfinite(price)] or [0]
        base = prices[0] if isfinite(prices[0]) and prices[0] > 0.0 else 1.0
        if isfinite(seen.wall_w) and base > 0.0:
            self._spent.append(seen.wall_w / base)
        held = self._choice
        if held is None or now_s - self._chosen_s >= LEARN_S:
            if held is not None and self._spent:
                cost = sum(self._spent) / len(self._spent)
                self._bandit.learn(held, cost)
                self.log.append(Logged(held.context, held.arm, held.propensity, held.feasible, cost))
            context = (least % self._node.replicas, min(least // 3, 5))
            prior = [prices[k] / base if isfinite(prices[k]) else 1.0 for k in feasible]
            held = self._choice = self._bandit.choose(context, feasible, prior)
            self._chosen_s, self._spent = now_s, []
        arm = min(held.arm, len(prices) - 1)
        return least + arm, prices[arm]

    def price(self, replicas: int, rate: float, seen: Seen) -> float:
        """What so many replicas cost: watts at the wall, and the price of those who wait; infinite without a clock that
        keeps the bounds.
        """
        return self._costs(replicas, rate, seen)[0]

    def _costs(self, replicas: int, rate: float, seen: Seen) -> tuple[float, float]:
        """The cost, and the watts at the wall that are in it."""
        w = self._wishes
        _, _, cost, gpu_w = self._cheapest(
            self._plant,
            self.flow(rate, replicas, seen),
            w.tbt_s,
            inf if isfinite(seen.price_w) else w.gap_s,
            0.9,
            w.min_x,
            w.chunk_min,
            w.chunk_max,
            seen.price_w if isfinite(seen.price_w) else 0.0,
        )
        if cost == inf:
            return inf, inf
        waits = (
            replicas * self._plant.gpus * (cost - gpu_w) * (1.0 + self._node.host_per_gpu_w) / self._node.supply_ratio
        )
        watts = self.wall_w(replicas, gpu_w, seen.total) * self._packing.price
        return watts + waits, watts

    def _switch(self, now_s: float, best: int, least: int, watts: float, *, ahead: Forecast, seen: Seen) -> Decision:
        """Up at once when the load asks for it; for economy, up or down, only what held long enough to earn a start."""
        fields = {
            "rate": ahead.now,
            "expected": ahead.expected,
            "upper": ahead.upper,
            "least": float(least),
            "best": float(best),
            "wall_w": watts,
        }
        load = f"{ahead.now:.1f} requests/s now, up to {ahead.upper:.1f} within {self._node.boot_s / 60:.0f} min"
        have = seen.serving
        if least > have or (best > have and not isfinite(self.price(have, ahead.now, seen))):
            self._wanted.clear()
            want = max(least, min(best, have + 1)) if best > have else least
            return Decision(want, f"{want} replicas serve from now on: {load} by {ahead.basis}.", fields)
        target = self._held(now_s, have, max(best, least))
        if target == have:
            kept = (
                f"{best} replicas would do for {load}; kept at {have} until that has held"
                if best != have
                else (f"{have} replicas stay: {load} by {ahead.basis}")
            )
            return Decision(have, f"{kept}.", fields)
        if target < have:
            earned, cost = self._earned_j(target, ahead.now, seen), self._start_j(have - target)
            fields |= {"earned_j": earned, "start_j": cost}
            if earned < cost:
                why = (
                    f"{target} replicas would do for {load}; kept at {have}, because {earned / 1e3:.0f} kJ in "
                    f"{EARN_S / 60:.0f} min do not earn the {cost / 1e3:.0f} kJ that starting them again costs."
                )
                return Decision(have, why, fields)
        self._wanted.clear()
        verb = "are enough" if target < have else "cost less"
        return Decision(target, f"{target} replicas {verb}: {load} by {ahead.basis}.", fields)

    def _held(self, now_s: float, have: int, want: int) -> int:
        """The number nearest to `have` that was wanted throughout the last `down_after_s` (up: `up_after_s`)."""
        self._wanted.append((now_s, want))
        packing = self._packing
        longest = max(packing.down_after_s, packing.up_after_s)
        while len(self._wanted) > 1 and self._wanted[1][0] <= now_s - longest:
            self._wanted.popleft()
        highest = self._extreme(now_s, packing.down_after_s, max)
        if highest is not None and highest < have:
            return highest
        lowest = self._extreme(now_s, packing.up_after_s, min)
        return lowest if lowest is not None and lowest > have else have

    def _extreme(self, now_s: float, span_s: float, pick: Callable[[list[int]], int]) -> int | None:
        """Highest or lowest wish of the last span; None while the span is not yet covered."""
        if self._wanted[0][0] > now_s - span_s + 1e-9:
            return None
        return pick([n for at, n in self._wanted if at >= now_s - span_s - 1e-9])

    def _earned_j(self, fewer: int, rate: float, seen: Seen) -> float:
        """What fewer replicas save within EARN_S, at the present worth of energy; all of it where it is not known."""
        now_w, watts = self.price(seen.serving, rate, seen), self.price(fewer, rate, seen)
        if not (isfinite(now_w) and isfinite(watts)):
            return inf
        weight = seen.weight if isfinite(seen.weight) and seen.weight > 0.0 else 1.0
        return (now_w - watts) * EARN_S * weight

    def _start_j(self, starts: int) -> float:
        """Energy of the boots and wear of so many starts."""
        per_node = self._node.boot_w * self._node.boot_s / max(self._node.replicas, 1)
        return max(starts, 0) * (per_node + self._packing.wear_j)

    def _learn_lengths(self, seen: Seen, span_s: float) -> None:
        share = min(1.0, span_s / 600.0)
        for name, value in (("_prompt", seen.prompt_tokens), ("_output", seen.output_tokens)):
            if not isfinite(value) or value <= 0.0:
                continue
            old = getattr(self, name)
            setattr(self, name, value if old is None else old + share * (value - old))
