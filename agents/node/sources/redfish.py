"""A BMC over Redfish, or a recorded tree of one: chassis, GPU, CPU and supply power, limits, fans, temperatures.

A reading waits for the BMC, so the agent reads it at the side. Session, connections and what was found stay between
readings; the source reads only. Changes of a system's power state are logged and kept.
"""

from __future__ import annotations

import asyncio
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
NOWHERE: Final = "no BMC is named; give its address by redfish_url, e.g. EO_NODE_REDFISH_URL=https://bmc-17"


class RedfishSource:
    """One BMC.

    Args:
        url: the BMC, e.g. "https://bmc-17".
        root: a recorded tree instead.
        user, password_file: whom to log in as; the file's first line is the password.
        ca_file: the CA of the BMC's certificate, PEM; "" = the system's.
        insecure: no check of the certificate.
        basic: basic authentication instead of a session.
        deadline_s: of one answer and of one poll.
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
        deadline_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree = RecordedTree(Path(root)) if root else None
        self._poller: BmcPoller | None = None
        self._runner: asyncio.Runner | None = None
        if url and self._tree is None:
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
        if self._tree is None and self._poller is None:
            return Probe(False, NOWHERE)
        return Probe(True, None, ("domain.chassis", "domain.supply", "domain.gpu", "sensor.fan", "sensor.temperature"))

    def read(self, now_ns: int) -> Reading:
        """One poll. Raises SourceError when the BMC does not answer or is left alone for a while."""
        if self._tree is not None:
            return self._reading(asyncio.run(self._walk(self._tree)), now_ns)
        if self._poller is None:
            raise SourceError(NOWHERE)
        found = self._once(self._poller)
        if found is None:
            raise SourceError(f"BMC {self._poller.access.url}: {self._poller.problem or 'it does not answer'}")
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
    def events(self) -> tuple[tuple[str, str | None, str], ...]:
        """Changes of power state, oldest first: (system, before, now)."""
        return tuple(self._poller.events) if self._poller else ()

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

    def close(self) -> None:
        """Ends the session at the BMC."""
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
