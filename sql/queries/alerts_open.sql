-- question: Which alerts fire now, on what evidence, and what is to be done?
-- param: hours = 720.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   started: when the firing began, UTC
--   severity: info, warning or critical
--   rule: rule
--   subject: what it is about
--   node: node; null = no single node
--   uuid: GPU; null = no single GPU
--   summary: one sentence
--   threshold: bound that was passed, in the unit of the rule
--   evidence: numbers behind it, by name (the unit is in the name)
--   firing_s: how long it has fired against the newest row of the archive, s
--   sql: question whose answer shows it
--   action: what was done about it
--   undo: how to undo that
--   runbook: what to do
--   quality: measured, estimated or simulated
--   alert_id: identity of the alert
WITH latest AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY alert_id ORDER BY ts_ns DESC, state DESC) AS place
    FROM alert
    WHERE ts >= since($hours)
)

SELECT
    make_timestamp_ns(coalesce(started_ns, ts_ns))::TIMESTAMPTZ AS started,
    severity,
    rule,
    coalesce(labels['subject'], uuid, node, cluster) AS subject,
    node, uuid, summary, threshold, evidence,
    round(epoch(since(0)) - coalesce(started_ns, ts_ns) / 1e9, 1) AS firing_s,
    sql, action, undo, runbook, quality, alert_id
FROM latest
WHERE place = 1 AND state = 'firing'
ORDER BY
    CASE severity WHEN 'critical' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END, started, alert_id
