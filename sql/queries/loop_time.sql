-- question: How long does the loop take, from the newest sample behind a command to its limit read back?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   commands: commands applied or clamped that asked for a limit or a clock, one per GPU
--   loop_ms_p50: median, ms
--   loop_ms_p95: p95, ms
--   loop_ms_p99: p99, ms
--   loop_ms_max: longest, ms
--   node_ms_p50: of this, from receipt on the node to read-back, median, ms
--   node_ms_p99: the same, p99, ms
--   simulated_ratio: share of simulated rows, 0..1
-- Counted in steps of 0.1 ms: millions of commands are counted faster than they are sorted.
WITH counted AS (
    SELECT
        (ts_ns - sample_ts_ns) // 100000 AS loop_step,
        round(latency_ms * 10)::BIGINT AS node_step,
        grouping(loop_step) = 0 AS is_loop,
        count(*) AS n,
        count_if(quality = 'simulated') AS simulated
    FROM power_applied
    WHERE
        ts >= since($hours) AND event = 'command' AND status IN ('applied', 'clamped') AND sample_ts_ns IS NOT NULL
        AND (requested_limit_w IS NOT NULL OR requested_sm_mhz IS NOT NULL)
    GROUP BY GROUPING SETS ((loop_step), (node_step))
),

ranked AS (
    SELECT
        is_loop, n, simulated,
        CASE WHEN is_loop THEN loop_step ELSE node_step END / 10.0 AS ms,
        sum(n) OVER (PARTITION BY is_loop ORDER BY ms) AS seen,
        sum(n) OVER (PARTITION BY is_loop) AS total
    FROM counted
    WHERE is_loop OR node_step IS NOT NULL
)

SELECT
    (sum(n) FILTER (is_loop))::BIGINT AS commands,
    min(ms) FILTER (is_loop AND seen >= 0.5 * total) AS loop_ms_p50,
    min(ms) FILTER (is_loop AND seen >= 0.95 * total) AS loop_ms_p95,
    min(ms) FILTER (is_loop AND seen >= 0.99 * total) AS loop_ms_p99,
    max(ms) FILTER (is_loop) AS loop_ms_max,
    min(ms) FILTER (NOT is_loop AND seen >= 0.5 * total) AS node_ms_p50,
    min(ms) FILTER (NOT is_loop AND seen >= 0.99 * total) AS node_ms_p99,
    round(sum(simulated) FILTER (is_loop) / sum(n) FILTER (is_loop), 4) AS simulated_ratio
FROM ranked
HAVING count(*) > 0
