"""All GPUs of a node, what we hold of them, and the save file that says so. It keeps file and memory in step.

The order is the rule: a claim is in the file before its knob is set, and leaves the file after its value was put back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agents.capper import durable, savefile
from agents.capper.actuators.base import Actuator
from agents.capper.errors import CapperError
from agents.capper.gpu import Gpu, Row
from agents.capper.knob import Claim, Knob, PutBack
from agents.capper.savefile import Saved, SavedKnob

log = logging.getLogger("eo.capper")


class Holdings:
    """The GPUs that the actuators reach, plus those that only the save file still names."""

    def __init__(
        self,
        *,
        folder: Path,
        cluster: str,
        node: str,
        capper_id: str,
        power: Actuator | None,
        clock: Actuator | None,
        sleep: Callable[[float], None],
    ) -> None:
        self._folder, self._power, self._clock, self._sleep = folder, power, clock, sleep
        self._on_disk = self._base = Saved(
            cluster=cluster,
            node=node,
            capper_id=capper_id,
            power_actuator=power.name if power else "",
            clock_actuator=clock.name if clock else "",
        )
        self.gpus: dict[str, Gpu] = {}
        self.held: tuple[tuple[Gpu, Knob], ...] = ()
        self.behind = False  # the file still lists values that were put back; written again at the next tick

    def load(self) -> None:
        """Lists the GPUs and takes over every claim of the save file. Raises CapperError."""
        saved = savefile.load(self._folder) or self._base
        powers = dict.fromkeys(self._power.uuids() if self._power else ())
        clocks = dict.fromkeys(self._clock.uuids() if self._clock else ())
        self._check_actuators(saved)
        self._on_disk = saved
        for uuid in {**powers, **clocks, **saved.power, **saved.clock}:
            vanished = uuid not in powers and uuid not in clocks
            power = self._knob(self._power, uuid, vanished or uuid in powers, saved.power.get(uuid))
            clock = self._knob(self._clock, uuid, vanished or uuid in clocks, saved.clock.get(uuid))
            self.gpus[uuid] = Gpu(uuid, power, clock)

    def _knob(self, actuator: Actuator | None, uuid: str, reached: bool, saved: SavedKnob | None) -> Knob | None:
        """A knob with its saved claim; a saved value keeps its knob where the actuator lists the GPU no more."""
        if actuator is None or not (reached or saved):
            return None
        knob = Knob(actuator, uuid, self._sleep)
        if saved is not None:
            knob.claim = Claim(saved, None, known=False)
        return knob

    def _check_actuators(self, saved: Saved) -> None:
        """A value saved from one kind of device must not be put back through another."""
        pairs = (
            (saved.power, saved.power_actuator, self._base.power_actuator),
            (saved.clock, saved.clock_actuator, self._base.clock_actuator),
        )
        for knobs, theirs, ours in pairs:
            if knobs and not (ours and theirs == ours):
                path, whose = self._folder / savefile.FILE_NAME, theirs or "an unnamed actuator"
                raise CapperError(
                    f"{path} holds {len(knobs)} values of {whose}, this capper uses {ours or 'none'}; nothing was set: "
                    f"run `eo restore --node {saved.node}` first"
                )

    def claim(self, found: Iterable[tuple[Knob, Claim]]) -> None:
        """Takes hold of knobs: durable in the save file, or not at all. Raises OSError."""
        taken = list(found)
        for knob, claim in taken:
            knob.claim = claim
        try:
            self.sync()
        except OSError:
            for knob, _ in taken:
                knob.claim = None
            raise

    def sync(self) -> None:
        """Brings the file in step with the claims; no write when it is. Raises OSError."""
        self.held = tuple((g, k) for g in self.gpus.values() for k in g.knobs if k.claim is not None)
        power = {g.uuid: k.claim.saved for g, k in self.held if k is g.power and k.claim}
        clock = {g.uuid: k.claim.saved for g, k in self.held if k is g.clock and k.claim}
        if power == self._on_disk.power and clock == self._on_disk.clock:
            return
        saved = _with(self._base, power, clock)
        if saved.empty:
            (self._folder / savefile.FILE_NAME).unlink(missing_ok=True)
            durable.sync_folder(self._folder)
        else:
            savefile.write(self._folder, saved)
        self._on_disk = saved

    def release(self) -> None:
        """As sync, after values were put back: a file that cannot be written then means one more restore later."""
        try:
            self.sync()
        except OSError as error:
            if not self.behind:
                log.warning("%s keeps values that were put back already (%s)", self._folder, error.strerror)
            self.behind = True
        else:
            self.behind = False


def _with(base: Saved, power: dict[str, SavedKnob], clock: dict[str, SavedKnob]) -> Saved:
    return Saved(
        cluster=base.cluster,
        node=base.node,
        capper_id=base.capper_id,
        power_actuator=base.power_actuator,
        clock_actuator=base.clock_actuator,
        power=power,
        clock=clock,
    )


def put_back_row(gpu: Gpu, results: Sequence[PutBack], previous_w: float | None, why: str) -> Row:
    """One GPU's restore as a line of an acknowledgement."""
    failed = [result.problem for result in results if result.state == "failed"]
    if failed:
        return Row(gpu.uuid, "refused", f"restore: {failed[0]}; the saved value is kept and tried again", gpu)
    if any(result.state == "pending" for result in results):
        wait = max(knob.actuator.latency_s for knob in gpu.knobs)
        text = f"{why}: the device was told and shows it within {wait:g} s; the saved value is kept until then"
        return Row(gpu.uuid, "expired", text, gpu, previous_w=previous_w)
    if any(result.state == "foreign" for result in results):
        return Row(gpu.uuid, "refused", "foreign: changed by others since, left as it is", gpu)
    return Row(gpu.uuid, "restored", why, gpu, previous_w=previous_w)
