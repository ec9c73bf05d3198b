-- question: Which GPUs stay at default for ever, as the meter of savings?
-- columns:
--   uuid: GPU
--   node: node
--   holdout: true when any envelope flagged it
SELECT uuid, any_value(node) AS node, bool_or(holdout) AS holdout
FROM power_desired
GROUP BY uuid
