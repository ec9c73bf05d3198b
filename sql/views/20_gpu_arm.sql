-- question: In which arm of the comparison was a GPU in a minute?
-- columns:
--   minute: start of the minute, UTC
--   uuid: GPU
--   arm: holdout = flagged in any envelope; controlled = a command was applied or clamped in this minute
--   granted_ns: first such command of the minute, ns since 1970 UTC; null in the hold-out
SELECT acks.minute, acks.uuid, 'controlled' AS arm, acks.first_granted_ns AS granted_ns
FROM command_minute AS acks
LEFT JOIN gpu_holdout AS flags USING (uuid)
WHERE acks.granted > 0 AND NOT coalesce(flags.holdout, false)
UNION ALL
SELECT minutes.minute, minutes.uuid, 'holdout' AS arm, NULL AS granted_ns
FROM gpu_minute AS minutes
INNER JOIN gpu_holdout AS flags USING (uuid)
WHERE flags.holdout
