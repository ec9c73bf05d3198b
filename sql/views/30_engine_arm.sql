-- question: In which arm of the comparison was an engine in a minute?
-- columns:
--   minute: start of the minute, UTC
--   engine: serving engine
--   arm: controlled when a limit or a clock was granted on any of its GPUs; holdout when one is and none was granted
--   granted_ns: when the last of its GPUs had its first command of the minute, ns since 1970 UTC
WITH members AS (
    SELECT DISTINCT engine, uuid, start_of_hour(minute) AS hour
    FROM gpu_minute
    WHERE engine IS NOT NULL
)

SELECT arms.minute, members.engine, min(arms.arm) AS arm, max(arms.granted_ns) AS granted_ns
FROM gpu_arm AS arms
INNER JOIN members ON arms.uuid = members.uuid AND start_of_hour(arms.minute) = members.hour
GROUP BY arms.minute, members.engine
