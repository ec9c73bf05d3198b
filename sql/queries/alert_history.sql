-- question: Which alerts fired, for how long, and how often does each rule fire for the same thing?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   started: when the firing began, UTC
--   ended: when it was resolved, UTC; null = it still fires
--   lasted_s: how long it fired, s; null = it still fires
--   rule: rule
--   severity: info, warning or critical
--   subject: what it is about
--   node: node; null = no single node
--   uuid: GPU; null = no single GPU
--   summary: the sentence of its firing
--   threshold: bound that was passed, in the unit of the rule
--   evidence: numbers of its firing, by name (the unit is in the name)
--   window_s: length of the evidence, s; null = not known
--   firings: how often this rule fired for this subject in these hours
--   quality: measured, estimated or simulated
--   alert_id: identity of the alert
WITH episodes AS (
    SELECT
        alert_id,
        min(coalesce(started_ns, ts_ns)) AS began_ns,
        max(ts_ns) FILTER (state = 'resolved') AS ended_ns,
        arg_min(rule, ts_ns) AS rule,
        arg_min(severity, ts_ns) AS severity,
        arg_min(coalesce(labels['subject'], uuid, node, cluster), ts_ns) AS subject,
        arg_min(node, ts_ns) AS node,
        arg_min(uuid, ts_ns) AS uuid,
        arg_min(summary, ts_ns) AS summary,
        arg_min(threshold, ts_ns) AS threshold,
        arg_min(evidence, ts_ns) AS evidence,
        arg_min(window_end_ns - window_start_ns, ts_ns) AS window_ns,
        arg_min(quality, ts_ns) AS quality
    FROM alert
    WHERE ts >= since($hours)
    GROUP BY alert_id
)

SELECT
    make_timestamp_ns(began_ns)::TIMESTAMPTZ AS started,
    make_timestamp_ns(ended_ns)::TIMESTAMPTZ AS ended,
    round((ended_ns - began_ns) / 1e9, 1) AS lasted_s,
    rule, severity, subject, node, uuid, summary, threshold, evidence,
    round(window_ns / 1e9, 1) AS window_s,
    count(*) OVER (PARTITION BY rule, subject) AS firings,
    quality,
    alert_id
FROM episodes
ORDER BY started DESC, alert_id
