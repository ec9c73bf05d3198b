-- question: Which anomalies were found, on what evidence, and which commands name them as their cause?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   ts: time of the verdict, UTC
--   node: node
--   uuid: GPU
--   metric: what was judged
--   score: score
--   threshold: threshold that it passed
--   model: detector
--   action: freeze or alert
--   evidence: numbers behind it, by name (the unit is in the name)
--   window_s: length of the evidence, s
--   commands: commands to this GPU that name the verdict as a cause
--   first_command: the first of them, UTC
--   quality: measured, estimated or simulated
--   verdict_id: identity of the verdict
WITH causes AS (
    SELECT uuid, unnest(cause) AS verdict_id, ts
    FROM power_desired
    WHERE ts >= since($hours) AND len(cause) > 0
),

answered AS (
    SELECT verdict_id, uuid, count(*) AS commands, min(ts) AS first_command FROM causes GROUP BY verdict_id, uuid
)

SELECT
    verdicts.ts, verdicts.node, verdicts.uuid, verdicts.metric, verdicts.score, verdicts.threshold, verdicts.model,
    verdicts.action, verdicts.evidence,
    round((verdicts.window_end_ns - verdicts.window_start_ns) / 1e9, 1) AS window_s,
    coalesce(answered.commands, 0) AS commands,
    answered.first_command,
    verdicts.quality,
    verdicts.verdict_id
FROM anomaly_gpu AS verdicts
LEFT JOIN answered ON verdicts.verdict_id = answered.verdict_id AND verdicts.uuid = answered.uuid
WHERE verdicts.ts >= since($hours)
ORDER BY verdicts.ts DESC, verdicts.uuid
