-- question: How long does the loop take, from the newest sample behind a command to its limit read back?
-- param: hours = 24.0 (h, back from the newest row)
-- columns:
--   commands: commands with an applied or clamped GPU, one per GPU
--   loop_ms_p50: median, ms
--   loop_ms_p95: p95, ms
--   loop_ms_p99: p99, ms
--   loop_ms_max: longest, ms
--   node_ms_p50: of this, from receipt on the node to read-back, median, ms
--   node_ms_p99: the same, p99, ms
--   simulated_ratio: share of simulated rows, 0..1
WITH loops AS (
    SELECT (ts_ns - sample_ts_ns) / 1e6 AS loop_ms, latency_ms, quality
    FROM power_applied
    WHERE
        ts >= since($hours) AND event = 'command' AND status IN ('applied', 'clamped') AND sample_ts_ns IS NOT NULL
),

measured AS (
    SELECT
        count(*) AS commands,
        quantile_cont(loop_ms, [0.5, 0.95, 0.99]) AS loop,
        max(loop_ms) AS longest,
        quantile_cont(latency_ms, [0.5, 0.99]) AS node,
        count_if(quality = 'simulated') / count(*) AS simulated
    FROM loops
)

SELECT
    commands,
    round(loop[1], 1) AS loop_ms_p50,
    round(loop[2], 1) AS loop_ms_p95,
    round(loop[3], 1) AS loop_ms_p99,
    round(longest, 1) AS loop_ms_max,
    round(node[1], 1) AS node_ms_p50,
    round(node[2], 1) AS node_ms_p99,
    round(simulated, 4) AS simulated_ratio
FROM measured
WHERE commands > 0
