-- question: Which GPUs were left at default, as the meter of savings, and from when on?
-- columns:
--   uuid: GPU
--   minute: start of the minute from which the flag holds, until the GPU's next row, UTC
--   node: node
--   holdout: what the newest envelope of the minute said
-- A GPU whose flag never changed is one row: a month of a fleet would otherwise be sorted by minutes.
WITH changing AS (
    SELECT uuid FROM power_desired GROUP BY uuid HAVING min(holdout) <> max(holdout)
)

SELECT
    uuid,
    to_timestamp(min(ts_ns) // 60000000000 * 60) AS minute,
    any_value(node) AS node,
    arg_max(holdout, ts_ns) AS holdout
FROM power_desired
GROUP BY uuid, CASE WHEN uuid IN (FROM changing) THEN ts_ns // 60000000000 END
