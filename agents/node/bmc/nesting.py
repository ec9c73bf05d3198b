"""Which domain holds which, so that no total counts a watt twice: parts below GPUs, all below their chassis. Pure."""

from __future__ import annotations

import re

from agents.node.bmc.documents import Documents
from agents.node.bmc.rows import DomainRow, Snapshot
from agents.node.bmc.values import listed, table, text


def nest(docs: Documents, rows: list[DomainRow], out: Snapshot) -> list[DomainRow]:
    """Sets every row's parent; where only supplies tell, their sum becomes the chassis. Wholes come first."""
    unique_names(rows)
    containers = _containers(docs)
    _boards_as_wholes(docs, rows, containers)
    _one_total_each(rows)
    rows += _sums_of_supplies(docs, rows, out)
    totals = {row.chassis: row for row in rows if row.total}
    gpus = _modules(rows, totals)
    labels = _labels(docs, rows)
    for row in rows:
        whole = _holder(row, totals, containers)
        gpu = None if row.gpu_uuid or row.total else gpus.get(row.chassis) or _named_gpu(row, labels)
        holder = gpu if gpu is not None and gpu is not row else whole
        row.parent = holder.name if holder is not None and holder is not row else None
        if gpu is not None and row.kind == "gpu":
            row.kind = "other"  # the same GPU seen by another sensor: one row of kind gpu per GPU
    if labels:
        for row in rows:
            if row.kind == "gpu" and row.gpu_uuid is None and "total" in row.name.lower():
                row.kind = "board"  # all GPUs together
    order = {"chassis": 0, "gpu": 1, "cpu_package": 2, "dram": 3, "supply": 4}
    return sorted(rows, key=lambda row: (not row.total, order.get(row.kind, 5)))


def unique_names(rows: list[DomainRow]) -> None:
    """Numbers what has a name that an earlier row has."""
    seen: dict[str, int] = {}
    for row in rows:
        count = seen[row.name] = seen.get(row.name, 0) + 1
        if count > 1:
            row.name = f"{row.name}#{count}"


def _modules(rows: list[DomainRow], totals: dict[str, DomainRow]) -> dict[str, DomainRow]:
    """Chassis that are one GPU's own module -> that GPU."""
    inside: dict[str, list[DomainRow]] = {}
    for row in rows:
        if row.gpu_uuid and row.chassis and row.chassis not in totals:
            inside.setdefault(row.chassis, []).append(row)
    return {chassis: found[0] for chassis, found in inside.items() if len(found) == 1}


def _containers(docs: Documents) -> dict[str, str]:
    """Chassis -> the chassis around it, told from either side."""
    found: dict[str, str] = {}
    for uri, doc in docs.of("chassis").items():
        links = table(doc.get("Links"))
        if (outer := docs.link(links.get("ContainedBy"))) and outer != uri:
            found[uri] = outer
        for item in listed(links.get("Contains")):
            if (inner := docs.link(item)) and inner != uri:
                found.setdefault(inner, uri)
    return found


def _boards_as_wholes(docs: Documents, rows: list[DomainRow], containers: dict[str, str]) -> None:
    """Where nothing tells a whole, a board that lies in nothing else holds what lies in it, e.g. a GPU baseboard."""
    if any(row.total for row in rows):
        return
    for row in rows:
        if row.kind == "board" and row.power_w is not None and not docs.has(containers.get(row.chassis, "")):
            row.total = 1


def _one_total_each(rows: list[DomainRow]) -> None:
    """Of several wholes of a chassis the best view is the whole; the others are parts of it."""
    best: dict[str, DomainRow] = {}
    for row in sorted((row for row in rows if row.total), key=lambda row: -row.total):
        if best.setdefault(row.chassis, row) is not row:
            row.total = 0


def _sums_of_supplies(docs: Documents, rows: list[DomainRow], out: Snapshot) -> list[DomainRow]:
    """Where nothing tells a whole, what all supplies draw is it, if all of them tell."""
    if any(row.total for row in rows):
        return []
    made = []
    for chassis in dict.fromkeys(row.chassis for row in rows if row.kind == "supply"):
        watts = [row.power_w for row in rows if row.kind == "supply" and row.chassis == chassis]
        known = [value for value in watts if value is not None]
        if len(known) == len(watts):
            name = f"{docs.name(chassis)}/all-supplies"
            made.append(DomainRow(name=name, kind="chassis", chassis=chassis, power_w=sum(known), total=1))
            out.lacks(name, "quality", f"the BMC tells no whole; this is the sum of {len(known)} supplies")
    return made


def _holder(row: DomainRow, totals: dict[str, DomainRow], containers: dict[str, str]) -> DomainRow | None:
    """The whole around a row: of its chassis, of the chassis around that, or the only one there is."""
    at, seen = row.chassis, set[str]()
    while at and at not in seen:
        seen.add(at)
        if (found := totals.get(at)) is not None and found is not row:
            return found
        at = containers.get(at, "")
    if len(totals) == 1 and not row.total:
        return next(iter(totals.values()))
    return None


def _labels(docs: Documents, rows: list[DomainRow]) -> list[tuple[re.Pattern[str], DomainRow]]:
    """How other sensors call each GPU: its slot's label, else the end of its name ("SXM3", "GPU3")."""
    made = []
    for row in rows:
        if row.kind != "gpu" or "/" in row.name:
            continue
        doc = next((docs.of("processor")[uri] for uri in row.origins if uri in docs.of("processor")), {})
        part = table(table(doc.get("Location")).get("PartLocation"))
        for label in {_plain(text(part.get("ServiceLabel"))), _plain(row.name)}:
            if len(label) >= 4 and label[-1].isdigit():
                made.append((re.compile(re.escape(label) + r"(?!\d)"), row))
    return made


def _named_gpu(row: DomainRow, labels: list[tuple[re.Pattern[str], DomainRow]]) -> DomainRow | None:
    if row.kind not in {"gpu", "dram", "other"}:
        return None
    name = _plain(row.name)
    return next((gpu for label, gpu in labels if gpu is not row and label.search(name)), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
