-- question: Which nodes lost samples, and how long does a sample take to the broker?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   node: node
--   boot_id: start of the agent's spool
--   messages: messages archived
--   gaps: numbers missing in the node's own count
--   lost: records that its spool had to drop, by its own count
--   delay_ms_mean: mean time from the sample to the broker, ms
--   delay_ms_max: longest, ms
--   delayed: messages that took more than 2 s
--   spool_depth_max: most records that waited on the node
--   last_seen_s: age of its newest message against the newest row of the archive, s
--   simulated_ratio: share of simulated messages, 0..1
SELECT
    node,
    boot_id,
    count(*) AS messages,
    max(seq) - min(seq) + 1 - count(*) AS gaps,
    max(lost_total) AS lost,
    round(avg(sent_ms - ts_ns / 1e6), 1) AS delay_ms_mean,
    round(max(sent_ms - ts_ns / 1e6), 1) AS delay_ms_max,
    count_if(sent_ms - ts_ns / 1e6 > 2000) AS delayed,
    max(spool_depth) AS spool_depth_max,
    round(epoch(since(0)) - max(ts_ns) / 1e9, 1) AS last_seen_s,
    round(count_if(quality = 'simulated') / count(*), 4) AS simulated_ratio
FROM host_reading
WHERE ts >= since($hours)
GROUP BY node, boot_id
ORDER BY gaps DESC, lost DESC, node, boot_id
