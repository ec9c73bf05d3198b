-- question: What does every GPU do now, and what is in force on it?
-- param: minutes = 5 >= 1 <= 525600 (min, how old a sample may be and still count as now)
-- columns:
--   node: node
--   uuid: GPU
--   engine: serving engine on it
--   age_s: age of the sample against the newest row of the archive, s
--   state: ok, lost or forbidden
--   power_w: power, W
--   limit_w: power limit, W
--   limit_default_w: default power limit, W
--   sm_mhz: SM clock, MHz
--   sm_lock_mhz: our clock lock, MHz; null = none
--   util_ratio: utilisation, 0..1
--   temp_c: temperature, C
--   holdout: left at default, by the newest envelope within the same minutes
--   last_status: what became of the newest command within the same minutes
--   last_reason: and why
--   quality: measured, estimated or simulated
WITH newest AS (
    SELECT * FROM telemetry_node
    WHERE ts >= since($minutes / 60.0)
    QUALIFY row_number() OVER (PARTITION BY uuid ORDER BY ts_ns DESC) = 1
),

acks AS (
    SELECT uuid, status, reason FROM power_applied
    WHERE ts >= since($minutes / 60.0)
    QUALIFY row_number() OVER (PARTITION BY uuid ORDER BY ts_ns DESC) = 1
),

flags AS (
    SELECT uuid, arg_max(holdout, ts_ns) AS holdout FROM power_desired
    WHERE ts >= since($minutes / 60.0)
    GROUP BY uuid
)

SELECT
    newest.node,
    newest.uuid,
    newest.engine,
    round(epoch(since(0)) - newest.ts_ns / 1e9, 1) AS age_s,
    newest.state,
    newest.power_w,
    newest.limit_w,
    newest.limit_default_w,
    newest.sm_mhz,
    newest.sm_lock_mhz,
    newest.util_ratio,
    newest.temp_c,
    flags.holdout,
    acks.status AS last_status,
    acks.reason AS last_reason,
    newest.quality
FROM newest
LEFT JOIN acks USING (uuid)
LEFT JOIN flags USING (uuid)
ORDER BY newest.node, newest.uuid
