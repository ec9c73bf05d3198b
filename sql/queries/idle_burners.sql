-- question: Which GPUs burn watts while they do nothing?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- param: util_max = 0.05 >= 0 <= 1 (0..1, mean utilisation of a minute that still counts as nothing)
-- param: top = 50 >= 1 <= 1000000 (rows, the worst first)
-- columns:
--   node: node
--   uuid: GPU
--   name: device model
--   engine: serving engine on it; null = none
--   idle_h: time doing nothing, h
--   idle_ratio: share of its time with known utilisation, 0..1
--   idle_power_w_mean: mean power while doing nothing, W
--   idle_energy_kwh: energy spent on nothing, kWh
--   simulated_ratio: share of simulated samples, 0..1
SELECT
    any_value(node) AS node,
    uuid,
    any_value(name) AS name,
    max(engine) AS engine,
    round(sum(covered_s) FILTER (idle) / 3600, 3) AS idle_h,
    round(sum(covered_s) FILTER (idle) / sum(covered_s) FILTER (idle IS NOT NULL), 4) AS idle_ratio,
    round(sum(power_w_sum) FILTER (idle) / sum(power_samples) FILTER (idle), 1) AS idle_power_w_mean,
    round(sum(energy_j) FILTER (idle) / 3.6e6, 6) AS idle_energy_kwh,
    round(sum(simulated_samples) / sum(samples), 4) AS simulated_ratio
FROM (
    SELECT *, util_ratio_sum / nullif(util_samples, 0) <= $util_max AS idle
    FROM gpu_minute
    WHERE minute >= since($hours)
)
GROUP BY uuid
HAVING count_if(idle) > 0
ORDER BY idle_energy_kwh DESC, uuid
LIMIT $top
