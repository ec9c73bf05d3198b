-- question: Which GPUs are held back by our own limits, and which by heat or by the hardware?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   node: node
--   uuid: GPU
--   samples: samples
--   locked_ratio: share of samples with a clock lock of ours, 0..1
--   limited_ratio: share with a power limit below the default, 0..1
--   capped_by_us_ratio: share throttled by a power limit that was below the default, 0..1
--   capped_by_default_ratio: share throttled by the default power limit, 0..1
--   thermal_ratio: share throttled for temperature, 0..1
--   brake_ratio: share slowed by the hardware, 0..1
--   sm_mhz_mean: mean SM clock, MHz
--   simulated_ratio: share of simulated samples, 0..1
-- Shares are of the samples in which the limit, or the throttle reasons, are known; null = never known.
SELECT
    any_value(node) AS node,
    uuid,
    sum(samples)::BIGINT AS samples,
    round(sum(locked_samples) / sum(samples), 4) AS locked_ratio,
    round(sum(limited_samples) / nullif(sum(limit_samples), 0), 4) AS limited_ratio,
    round(
        sum(capped_by_us_samples) / nullif(sum(throttle_samples) * (sum(limit_samples) > 0)::INT, 0), 4
    ) AS capped_by_us_ratio,
    round(
        (sum(capped_samples) - sum(capped_by_us_samples))
        / nullif(sum(throttle_samples) * (sum(limit_samples) > 0)::INT, 0), 4
    ) AS capped_by_default_ratio,
    round(sum(thermal_samples) / nullif(sum(throttle_samples), 0), 4) AS thermal_ratio,
    round(sum(brake_samples) / nullif(sum(throttle_samples), 0), 4) AS brake_ratio,
    round(sum(sm_mhz_sum) / nullif(sum(sm_samples), 0), 1) AS sm_mhz_mean,
    round(sum(simulated_samples) / sum(samples), 4) AS simulated_ratio
FROM gpu_minute
WHERE minute >= since($hours)
GROUP BY uuid
ORDER BY capped_by_us_ratio DESC, locked_ratio DESC, node, uuid
