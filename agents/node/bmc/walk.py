"""Finds what a BMC can tell of power, limits, fans and temperatures, by following links from the service root.

Vendors differ in what they link; roles say what a document is for, whatever its version. Power comes before fans and
fans before the long tail of sensors, so that a walk cut short by its deadline has the important part. Every address is
visited once and their number is bounded: a tree may be hostile or endless.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable
from typing import Final

from agents.node.bmc.documents import ROOT, BadLink, Documents, address, normal
from agents.node.bmc.errors import BmcError
from agents.node.bmc.values import Json, absent, kind_of, listed, table, text

Get = Callable[[str], Awaitable[Json]]
MAX_DOCUMENTS: Final = 2500

# role -> what to follow: (property, role of its target, urgency; lower is sooner). "x[]" is a collection of x.
FOLLOW: Final[dict[str, tuple[tuple[str, str, int], ...]]] = {
    "root": (
        ("Systems", "system[]", 0),
        ("Chassis", "chassis[]", 0),
        ("TelemetryService", "telemetry", 8),
        ("PowerEquipment", "power_equipment", 2),
    ),
    "power_equipment": (("RackPDUs", "pdu[]", 2), ("FloorPDUs", "pdu[]", 2), ("TransferSwitches", "pdu[]", 2)),
    "pdu": (("Metrics", "environment", 2),),
    "chassis": (
        ("EnvironmentMetrics", "environment", 1),
        ("Power", "power", 1),
        ("PowerSubsystem", "power_subsystem", 2),
        ("Controls", "control[]", 3),
        ("ThermalSubsystem", "thermal_subsystem", 5),
        ("Thermal", "thermal", 5),
        ("Sensors", "sensor[]", 4),
    ),
    "system": (("Processors", "processor[]", 1),),
    "processor": (("EnvironmentMetrics", "environment", 1), ("Metrics", "processor_metrics", 2)),
    "power_subsystem": (("PowerSupplies", "supply[]", 2),),
    "supply": (("Metrics", "supply_metrics", 2),),
    "thermal_subsystem": (("Fans", "fan[]", 5), ("ThermalMetrics", "thermal_metrics", 6)),
    "telemetry": (("MetricReports", "report[]", 8),),
}
DEFAULTS: Final = {"Chassis": f"{ROOT}/Chassis", "Systems": f"{ROOT}/Systems"}
OWNERS: Final = frozenset({"chassis", "system", "processor", "supply", "pdu"})
SENSOR_URGENCY: Final = {"power": 4, "fan": 5, "other": 7}


class Walk:
    """One walk over one BMC.

    Args:
        get: fetches one document; raises BmcError.
        host: "name:port" of the BMC, whose absolute links are its own.
        prefix: the path in front of its /redfish.
        expand: ask collections for their members' contents where the BMC says that it can.
        workers: how many requests may be under way at once.
    """

    def __init__(self, get: Get, *, host: str = "", prefix: str = "", expand: bool = False, workers: int = 1) -> None:
        self.docs = Documents(host=host, prefix=prefix)
        self.cut = 0  # addresses left unvisited when the walk was cut short
        self._get, self._expand, self._workers = get, expand, workers
        self._heap: list[tuple[int, int, str, str, str]] = []
        self._order, self._seen, self._busy = itertools.count(), set[str](), 0
        self._can_expand = False
        self._work = asyncio.Condition()

    async def run(self, deadline_s: float | None = None) -> Documents:
        """Walks until everything is seen or the time is over. Raises BmcError when the root cannot be had."""
        root = await self._get(ROOT)
        features = table(table(root.get("ProtocolFeaturesSupported")).get("ExpandQuery"))
        self._can_expand = self._expand and (features.get("NoLinks") is True or features.get("ExpandAll") is True)
        self._take("root", ROOT, root, ROOT, "")
        try:
            async with asyncio.timeout(deadline_s), asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._worker())
        except TimeoutError:
            self.cut = len(self._heap) + self._busy
            self.docs.missing["discovery"] = f"cut short after {deadline_s:g} s with {self.cut} documents not yet read"
        self.docs.arrange()
        return self.docs

    async def _worker(self) -> None:
        while True:
            async with self._work:
                while not self._heap and self._busy:
                    await self._work.wait()
                if not self._heap:
                    self._work.notify_all()
                    return
                _, _, role, uri, owner = heapq.heappop(self._heap)
                self._busy += 1
            try:
                await self._visit(role, uri, owner)
            finally:
                async with self._work:
                    self._busy -= 1
                    self._work.notify_all()

    async def _visit(self, role: str, uri: str, owner: str) -> None:
        asked = uri
        try:
            if role.endswith("[]") and self._can_expand and "?" not in uri:
                asked = f"{uri}?$expand=."
                try:
                    doc = await self._get(asked)
                except BmcError as error:
                    if error.fatal:
                        raise
                    asked = uri
                    doc = await self._get(uri)
            else:
                doc = await self._get(uri)
        except BmcError as error:
            if error.fatal:
                raise
            self.docs.missing[uri] = str(error)
            return
        self._take(role, uri, doc, asked, owner)

    def _take(self, role: str, uri: str, doc: Json, origin: str, owner: str) -> None:
        if role.endswith("[]"):
            self._members(role[:-2], uri, doc, origin, owner)
            return
        if absent(doc) and role not in {"chassis", "system"}:
            self.docs.missing[uri] = "absent"
        self.docs.put(role, uri, doc, origin=origin, owner=owner)
        below = uri if role in OWNERS else owner
        for name, target, urgency in FOLLOW.get(role, ()):
            if role == "processor" and not _measured(doc):
                continue
            link = doc.get(name) or (DEFAULTS.get(name) if role == "root" else None)
            self._push(link, uri, target, urgency, below)

    def _members(self, role: str, uri: str, doc: Json, origin: str, owner: str) -> None:
        for member in listed(doc.get("Members")):
            if len(member) > 2 and text(member.get("@odata.id")):
                self._inline(role, uri, member, origin, owner)
            else:
                self._push(member, uri, role, _urgency(role, member), owner)
        if (more := doc.get("Members@odata.nextLink") or doc.get("@odata.nextLink")) is not None:
            self._push(more, uri, f"{role}[]", _urgency(role, {}), owner)

    def _inline(self, role: str, base: str, member: Json, origin: str, owner: str) -> None:
        """A member that the collection holds in full: read already, to be asked for again with the collection."""
        try:
            uri = normal(member["@odata.id"], base=base, host=self.docs.host, prefix=self.docs.prefix)
        except BadLink as error:
            self.docs.missing[f"{base} member"] = str(error)
            return
        if uri not in self._seen and len(self._seen) < MAX_DOCUMENTS:
            self._seen.add(uri)
            self._take(role, uri, member, origin, owner)

    def _push(self, link: object, base: str, role: str, urgency: int, owner: str) -> None:
        found = address(link)
        if found is None:
            return
        try:
            uri = normal(found, base=base, host=self.docs.host, prefix=self.docs.prefix)
        except BadLink as error:
            self.docs.missing[f"{base} {role}"] = str(error)
            return
        if uri in self._seen:
            return
        if len(self._seen) >= MAX_DOCUMENTS:
            self.docs.missing["discovery"] = f"stopped at {MAX_DOCUMENTS} documents; the rest was not read"
            return
        self._seen.add(uri)
        heapq.heappush(self._heap, (urgency, next(self._order), role, uri, owner))


def _urgency(role: str, member: Json) -> int:
    if role != "sensor":
        return {"chassis": 0, "system": 0, "processor": 1, "supply": 2, "control": 3, "fan": 5}.get(role, 8)
    name = str(member.get("@odata.id", "")).rpartition("/")[2].lower()
    if "pwr" in name or "power" in name or "watt" in name:
        return SENSOR_URGENCY["power"]
    return SENSOR_URGENCY["fan" if kind_of(name) == "fan" else "other"]


def _measured(doc: Json) -> bool:
    """Processors whose own power is worth asking for: not FPGAs, DPUs or cores of some bus."""
    return text(doc.get("ProcessorType")).lower() in {"", "gpu", "cpu", "accelerator"}
