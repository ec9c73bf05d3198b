"""Writes docs/sql.md from the SQL files and the schemas, so that the document cannot drift.

`python -m agents.cli.sql_docs > docs/sql.md`
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from agents.cli.sql_show import views

HEAD = """# SQL over the archive

This file is made from `sql/` and `streams/sinks/schemas*.py` by `python -m agents.cli.sql_docs`; a test compares them.

```sh
eo sql --list                                   # the queries, with questions and parameters
eo sql savings_holdout                          # a query by name
eo sql power_by_node_hour --param hours=2 --csv
eo sql "SELECT node, avg(power_w) FROM telemetry_node GROUP BY node"
eo sql --schema gpu_minute                      # the columns of a view
```

- Reading only: one SELECT, WITH, EXPLAIN, DESCRIBE or SHOW; anything else ends with exit code 3. DuckDB sees the
  archive's folder and nothing else, and loads no extension.
- At most 1000 rows (`--limit-rows`) and 30 s (`--timeout-s`). `--json` prints a list of objects, `--csv` a table.
- "Now" is the newest row of the archive, not the clock: `hours = 24` means the last 24 h that the archive holds.
- Unknown is NULL and never 0. `quality` and `simulated_ratio` say what was measured and what was simulated.
- A file that cannot be read is left out and named; the rest is answered.
- Rows are archived once: a record that its sender sent twice, or that was read again after a crash, is one row.
- The raw rows are `topic=<dataset>/date=/hour=/p<partition>-<first offset>-<last offset>.parquet` below
  `$EO_DATA_DIR/archive`. Hours that are over are merged to one file per partition, and minutes are rolled up beside
  them (`gpu_minute`, `engine_minute`, `command_minute`); the same SQL counts raw rows where no roll-up exists yet.
"""


def render() -> str:
    """The whole document."""
    from streams.sinks.sql_files import load

    lines = [HEAD, "## Queries", ""]
    for query in load("queries").values():
        lines += [f"### {query.name}", "", query.question, ""]
        if query.note:
            lines += [query.note, ""]
        lines += _table(
            ("parameter", "default", "bounds", "meaning"),
            [(p.name, str(p.default), p.range, p.meaning) for p in query.params],
        )
        lines += _table(("column", "meaning"), query.columns)
    lines += ["## Views", ""]
    for name, (row, columns) in views().items():
        lines += [
            f"### {name}",
            "",
            row[:1].upper() + row[1:].removesuffix(".") + ("" if row.endswith("?") else "."),
            "",
        ]
        lines += _table(("column", "meaning"), columns)
    return "\n".join(lines).rstrip() + "\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    body = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    if not body:
        return []
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {line} |" for line in body), ""]


if __name__ == "__main__":
    sys.stdout.write(render())
