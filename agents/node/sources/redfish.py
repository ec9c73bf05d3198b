"""A BMC over Redfish, or a recorded tree of one: chassis, GPU, CPU and supply power, limits, fans, temperatures.

BMCs are slow, so the agent's copy polls on a thread of its own and `read` gives its newest poll; a single reading
(`eo read`) polls in place. It reads only. Power state changes are logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agents.node.bmc.errors import BmcError
from agents.node.bmc.extract import snapshot
from agents.node.bmc.poller import Access, BmcPoller
from agents.node.bmc.rows import Snapshot
from agents.node.bmc.session import Credentials
from agents.node.bmc.tree import RecordedTree
from agents.node.bmc.walk import Walk
from agents.node.errors import SettingsError, SourceError
from agents.node.sources.base import Probe, Reading

MAX_SECRET: Final = 4096


class RedfishSource:
    """One BMC.

    Args:
        url: the BMC, e.g. "https://bmc-17".
        root: a recorded tree instead.
        user, password_file: whom to log in as; the file's first line is the password.
        ca_file: the CA of the BMC's certificate, PEM; "" = the system's.
        insecure: no check of the certificate.
        basic: basic authentication instead of a session.
        interval_s: between two polls of the background.
        deadline_s: of one answer and of one poll.
        background: poll on a thread; False = poll in `read`.
    """

    name = "redfish"

    def __init__(
        self,
        url: str = "",
        *,
        root: str | Path = "",
        user: str = "",
        password_file: str = "",
        ca_file: str = "",
        insecure: bool = False,
        basic: bool = False,
        interval_s: float = 10.0,
        deadline_s: float = 5.0,
        background: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not url and not root:
            raise SettingsError("source redfish needs a BMC: give --url https://HOST, or redfish_url in the settings")
        self._tree = RecordedTree(Path(root)) if root else None
        self._interval_s, self._background, self._monotonic = float(interval_s), bool(background), monotonic
        self._poller: BmcPoller | None = None
        self._thread: threading.Thread | None = None
        self._runner: asyncio.Runner | None = None
        self._wake: Callable[[], object] = lambda: None
        self._closed = False
        if self._tree is None:
            access = Access(
                url=url,
                credentials=_credentials(user, password_file),
                ca_file=ca_file,
                insecure=bool(insecure),
                basic=bool(basic),
                deadline_s=float(deadline_s),
            )
            try:
                access.open()
            except ValueError as error:
                raise SettingsError(str(error)) from error
            self._poller = BmcPoller(access, monotonic=monotonic)

    # --- the source --------------------------------------------------------------------------------------------

    def probe(self) -> Probe:
        """A recorded tree is looked at; a BMC is not asked: it answers in its own time, and `read` says how."""
        if self._tree is not None and (problem := self._tree.problem()) is not None:
            return Probe(False, problem)
        return Probe(True, None, ("domain.chassis", "domain.supply", "domain.gpu", "sensor.fan", "sensor.temperature"))

    def read(self, now_ns: int) -> Reading:
        """The newest poll. Raises SourceError when there is none that is new enough."""
        if self._tree is not None:
            return self._reading(asyncio.run(self._walk(self._tree)), now_ns)
        assert self._poller is not None
        if not self._background:
            found = self._once(self._poller)
            if found is None:
                raise SourceError(self._poller.problem or "the BMC does not answer")
            return self._reading(found, now_ns)
        self._start(self._poller)
        return self._newest(self._poller, now_ns)

    def _newest(self, poller: BmcPoller, now_ns: int) -> Reading:
        found, age_s = poller.last, self._monotonic() - poller.last_at_s
        if found is None and poller.problem is None:
            return Reading(
                source=self.name,
                ts_ns=now_ns,
                quality="measured",
                missing=(("domains", "the first poll of the BMC is under way"),),
            )
        if found is None or age_s > 2 * self._interval_s + poller.access.deadline_s:
            raise SourceError(poller.problem or f"the BMC's last answer is {age_s:.0f} s old")
        return self._reading(found, now_ns)

    def _reading(self, found: Snapshot, now_ns: int) -> Reading:
        domains, sensors = found.domain_columns(), found.sensor_columns()
        kinds = dict.fromkeys(f"domain.{row.kind}" for row in found.domains)
        kinds |= dict.fromkeys(f"sensor.{row.kind}" for row in found.sensors)
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            capability=tuple(kinds),
            domains=domains,
            sensors=sensors,
            missing=tuple(found.missing.items()),
        )

    async def _walk(self, tree: RecordedTree) -> Snapshot:
        try:
            return snapshot(await Walk(tree.get).run())
        except* BmcError as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise SourceError(str(error)) from None

    # --- polling -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, str]:
        """Power state per system, as last seen."""
        last = self._poller.last if self._poller else None
        return dict(last.state) if last else {}

    def _once(self, poller: BmcPoller) -> Snapshot | None:
        """A poll in place; session and connections stay for the next."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(poller.poll())

    def _start(self, poller: BmcPoller) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._in_background, args=(poller,), name="redfish", daemon=True)
            self._thread.start()

    def _in_background(self, poller: BmcPoller) -> None:
        asyncio.run(self._poll_on(poller))

    async def _poll_on(self, poller: BmcPoller) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(stop.set)
        try:
            while not (stop.is_set() or self._closed):
                due = self._monotonic() + self._interval_s
                await poller.poll()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), max(0.05, due - self._monotonic()))
        finally:
            self._wake = lambda: None
            await poller.close()

    def close(self) -> None:
        """Ends the polling and the session at the BMC; waits for a BMC that hangs no longer than its deadline."""
        self._closed = True
        self._wake()
        if self._thread is not None:
            self._thread.join(self._poller.access.deadline_s + 2 if self._poller else 0)
            self._thread = None
        runner, self._runner = self._runner, None
        if runner is not None:
            with runner:
                if self._poller is not None:
                    runner.run(self._poller.close())


def _credentials(user: str, password_file: str) -> Credentials | None:
    """Raises SettingsError when only one half is given or the file gives no password."""
    if not user and not password_file:
        return None
    if not user or not password_file:
        missing = "redfish_user" if password_file else "redfish_password_file"
        raise SettingsError(f"a login at the BMC takes redfish_user and redfish_password_file; {missing} is missing")
    try:
        with Path(password_file).open(encoding="utf-8") as file:
            password = file.readline(MAX_SECRET).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"redfish_password_file {password_file} cannot be read ({cause})") from error
    if not password:
        raise SettingsError(f"redfish_password_file {password_file} is empty; its first line is the password")
    return Credentials(user, password)
