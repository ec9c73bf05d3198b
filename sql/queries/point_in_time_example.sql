-- question: What did the features say at the moment of each command, without a look into the future?
-- param: commands = 20 >= 1 <= 1000000 (rows, the newest commands)
-- param: max_age_s = 10.0 > 0 <= 86400 (s, older features count as unknown)
-- columns:
--   ts: when the command was issued, UTC
--   node: node
--   uuid: GPU
--   max_sm_mhz: highest clock granted, MHz
--   max_power_w: power limit granted, W
--   gpu_reason: why
--   feature_age_s: age of the features at that moment, s
--   power_w_mean_60s: mean power of the 60 s before, W
--   util_ratio_mean_60s: mean utilisation of the 60 s before, 0..1
--   waste_w: power burnt while idle, W
--   j_per_token_60s: energy per token of the 60 s before, J
--   quality: of the features: measured, estimated or simulated
-- A pattern for training data: ASOF JOIN takes the last row at or before the moment. Feature rows are cut to the time
-- around the chosen commands first, or a day of a fleet would be sorted for twenty rows.
WITH chosen AS (
    SELECT ts, node, uuid, max_sm_mhz, max_power_w, gpu_reason
    FROM power_desired
    WHERE ts >= since(1) AND NOT holdout
    ORDER BY ts DESC, uuid
    LIMIT $commands
),

known AS (
    SELECT ts, uuid, power_w_mean_60s, util_ratio_mean_60s, waste_w, j_per_token_60s, quality
    FROM features_gpu
    WHERE
        ts >= since(1 + $max_age_s / 3600)
        AND ts >= (SELECT min(ts) FROM chosen) - to_microseconds(($max_age_s * 1000000)::BIGINT)
        AND uuid IN (SELECT uuid FROM chosen)
)

SELECT
    chosen.ts, chosen.node, chosen.uuid, chosen.max_sm_mhz, chosen.max_power_w, chosen.gpu_reason,
    CASE WHEN fresh THEN round(epoch(chosen.ts - known.ts), 3) END AS feature_age_s,
    CASE WHEN fresh THEN known.power_w_mean_60s END AS power_w_mean_60s,
    CASE WHEN fresh THEN known.util_ratio_mean_60s END AS util_ratio_mean_60s,
    CASE WHEN fresh THEN known.waste_w END AS waste_w,
    CASE WHEN fresh THEN known.j_per_token_60s END AS j_per_token_60s,
    CASE WHEN fresh THEN known.quality END AS quality
FROM chosen
ASOF LEFT JOIN known ON chosen.uuid = known.uuid AND chosen.ts >= known.ts
CROSS JOIN LATERAL (SELECT coalesce(epoch(chosen.ts - known.ts) <= $max_age_s, false) AS fresh)
ORDER BY chosen.ts DESC, chosen.uuid
