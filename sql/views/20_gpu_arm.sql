-- question: In which arm of the comparison was a GPU in a minute?
-- columns:
--   minute: start of the minute, UTC
--   uuid: GPU
--   arm: controlled = a limit or a clock was granted in this minute; holdout = flagged by the newest envelope, no grant
--   granted_ns: first such command of the minute, ns since 1970 UTC; null in the hold-out
-- A minute with a grant whose newest envelope flags the GPU is in neither arm.
WITH minutes AS (
    SELECT minute, uuid, NULL::BIGINT AS granted_ns FROM gpu_minute
    UNION ALL
    SELECT minute, uuid, first_granted_ns FROM command_minute WHERE granted > 0
),

by_minute AS (
    SELECT minute, uuid, min(granted_ns) AS granted_ns FROM minutes GROUP BY minute, uuid
),

-- A flag holds from its minute until the next; almost every GPU has one, so that this is a join by name.
flags AS (
    SELECT
        uuid,
        holdout,
        minute AS since,
        coalesce(lead(minute) OVER (PARTITION BY uuid ORDER BY minute), 'infinity'::TIMESTAMPTZ) AS until
    FROM gpu_holdout
)

SELECT
    by_minute.minute,
    by_minute.uuid,
    CASE WHEN by_minute.granted_ns IS NULL THEN 'holdout' ELSE 'controlled' END AS arm,
    by_minute.granted_ns
FROM by_minute
LEFT JOIN flags
    ON by_minute.uuid = flags.uuid AND by_minute.minute >= flags.since AND by_minute.minute < flags.until
WHERE coalesce(flags.holdout, false) = (by_minute.granted_ns IS NULL)
