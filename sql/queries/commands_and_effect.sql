-- question: What did our commands do: how many, with which status, and by how much did power and latency change?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   strategy: latency bounds in force
--   mode: observe, recommend, canary or on
--   status: applied, clamped, refused, recommended, ... or unanswered
--   holdout: GPUs that stay at default
--   granting: whether a limit or a clock was asked for; false = the GPU was left at its own value
--   commands: closed commands, one per GPU
--   gpus: GPUs
--   effect_w_mean: mean change of power, W per GPU; negative = less
--   effect_known_ratio: share of commands whose effect could be measured, 0..1
--   tbt_p99_change_ratio: p99 time between tokens after / before - 1, mean over commands
--   loop_ms_mean: mean time from sample to read-back, ms; its quantiles are in loop_time
--   simulated_ratio: share of simulated rows, 0..1
WITH by_gpu AS (
    SELECT
        strategy, mode, status, holdout, uuid,
        requested_limit_w IS NOT NULL OR max_sm_mhz IS NOT NULL AS granting,
        count(*) AS n, count(effect_w) AS known, sum(effect_w) AS effect_w, sum(loop_ms) AS loop_ms,
        count(loop_ms) AS looped,
        sum(tbt_p99_after_ms / nullif(tbt_p99_before_ms, 0)) AS tbt,
        count(tbt_p99_after_ms / nullif(tbt_p99_before_ms, 0)) AS tbt_known,
        count_if(quality = 'simulated') AS simulated
    FROM ledger_command
    WHERE ts >= since($hours)
    GROUP BY ALL
)

SELECT
    strategy,
    mode,
    status,
    holdout,
    granting,
    sum(n)::BIGINT AS commands,
    count(*) AS gpus,
    round(sum(effect_w) / nullif(sum(known), 0), 2) AS effect_w_mean,
    round(sum(known) / sum(n), 4) AS effect_known_ratio,
    round(sum(tbt) / nullif(sum(tbt_known), 0) - 1, 4) AS tbt_p99_change_ratio,
    round(sum(loop_ms) / nullif(sum(looped), 0), 1) AS loop_ms_mean,
    round(sum(simulated) / sum(n), 4) AS simulated_ratio
FROM by_gpu
GROUP BY strategy, mode, status, holdout, granting
ORDER BY commands DESC, status, holdout, granting
