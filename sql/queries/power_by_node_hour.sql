-- question: How much power does each node draw, hour by hour, and how much energy is that?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   hour: start of the hour, UTC
--   node: node
--   gpus: GPUs with samples
--   gpu_power_w_mean: mean power of one GPU, W
--   node_power_w_mean: mean power of all its GPUs together, W
--   gpu_power_w_max: highest power of one GPU, W
--   energy_kwh: energy of its GPUs in the hour, kWh
--   coverage_ratio: samples present of those due between the first and the last, at the median spacing of the node's
--       minutes, 0..1; null = no minute with two samples of a GPU
--   simulated_ratio: share of simulated samples, 0..1
SELECT
    start_of_hour(minute) AS hour,
    node,
    count(DISTINCT uuid) AS gpus,
    round(sum(power_w_sum) / sum(power_samples), 1) AS gpu_power_w_mean,
    round(sum(power_w_sum) / sum(power_samples) * count(DISTINCT uuid), 1) AS node_power_w_mean,
    max(power_w_max) AS gpu_power_w_max,
    round(sum(energy_j) / 3.6e6, 6) AS energy_kwh,
    round(
        sum(samples) / (
            count(DISTINCT uuid)
            * ((max(last_ts_ns) - min(first_ts_ns)) / 1e9 / quantile_disc(covered_s / samples, 0.5) + 1)
        ), 4
    ) AS coverage_ratio,
    round(sum(simulated_samples) / sum(samples), 4) AS simulated_ratio
FROM gpu_minute
WHERE minute >= since($hours)
GROUP BY hour, node
ORDER BY hour, node
