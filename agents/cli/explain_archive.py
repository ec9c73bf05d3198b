"""`eo explain` from the archive, when no broker runs: the same rows, read from Parquet with DuckDB. Read only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.cli.base import EoError
from agents.cli.explain_story import UNSOLICITED, GpuStory, Row, Story

if TYPE_CHECKING:
    import duckdb

DATASETS = ("power.desired", "power.applied", "anomaly.gpu", "ledger.command")


def gather(archive: Path, target: str, *, cluster: str, since_s: float) -> Story:
    """The story of a GPU or node from the archive's end; ages count from its newest row, not from now.

    Raises EoError when the archive holds no command or acknowledgement of it.
    """
    import duckdb

    with duckdb.connect() as db:
        db.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        where = "cluster = $cluster AND (node = $target OR starts_with(uuid, $target))"
        found = {name: _rows(db, archive, name, where, cluster=cluster, target=target) for name in DATASETS}
    rows = [row for part in found.values() for row in part]
    if not rows:
        raise EoError(
            f"the archive {archive} holds nothing of {target!r} in cluster {cluster!r}; with a broker running, "
            "`eo explain` reads the topics."
        )
    now_ns = max(row["ts_ns"] for row in rows)
    since_ns = now_ns - int(since_s * 1e9)
    stories: dict[str, GpuStory] = {}
    for name, part in found.items():
        for row in part:
            story = stories.setdefault(row["uuid"], GpuStory(row["node"], row["uuid"]))
            if name == "power.desired" or row["ts_ns"] >= since_ns:
                _add(story, name, row)
    if len(stories) > 1 and len({s.node for s in stories.values()}) > 1:
        raise EoError(f"{len(stories)} GPUs begin with {target!r}; write more of the UUID.")
    return Story(cluster, "archive", now_ns, since_s, [stories[uuid] for uuid in sorted(stories)])


def _add(story: GpuStory, dataset: str, row: Row) -> None:
    if dataset == "power.desired":
        story.command = row
    elif dataset == "anomaly.gpu":
        story.verdicts.append(row)
    elif dataset == "ledger.command":
        story.ledger.append(row)
    elif row["event"] in UNSOLICITED:
        story.events.append(row)
    else:
        story.ack = row


def _rows(db: duckdb.DuckDBPyConnection, archive: Path, dataset: str, where: str, **values: str) -> list[Row]:
    """Rows oldest first; of commands only the newest of each GPU."""
    folder = archive / f"topic={dataset}"
    if not any(folder.glob("date=*/hour=*/*.parquet")):
        return []
    newest = "QUALIFY row_number() OVER (PARTITION BY uuid ORDER BY epoch DESC, seq DESC) = 1"
    order = newest if dataset == "power.desired" else ""
    sql = (
        "SELECT * FROM read_parquet($files, union_by_name = true, hive_partitioning = false) "
        f"WHERE {where} {order} ORDER BY ts_ns"
    )
    cursor = db.execute(sql, {"files": f"{folder}/date=*/hour=*/*.parquet", **values})
    names = [column[0] for column in cursor.description or ()]
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    for row in rows:
        row.pop("ts", None)
    return rows
