-- question: Which GPUs were left at default, as the meter of savings, and from when on?
-- columns:
--   uuid: GPU
--   minute: start of the minute from which the flag holds, until the GPU's next row, UTC
--   node: node
--   holdout: what the newest envelope of the minute said
-- A GPU whose flag never changed is one row: a month of a fleet would otherwise be sorted by minutes.
WITH flags AS MATERIALIZED (
    SELECT uuid, any_value(node) AS node, min(ts_ns) AS first_ns, min(holdout) AS lowest, max(holdout) AS highest
    FROM power_desired
    GROUP BY uuid
)

SELECT uuid, to_timestamp(first_ns // 60000000000 * 60) AS minute, node, lowest AS holdout
FROM flags
WHERE lowest IS NOT DISTINCT FROM highest
UNION ALL
SELECT uuid, to_timestamp(min(ts_ns) // 60000000000 * 60), any_value(node), arg_max(holdout, ts_ns)
FROM power_desired
WHERE uuid IN (SELECT uuid FROM flags WHERE lowest <> highest)
GROUP BY uuid, ts_ns // 60000000000
