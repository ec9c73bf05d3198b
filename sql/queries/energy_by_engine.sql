-- question: How much energy does each serving engine (the job on its GPUs) use, and how long does it wait idle?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- param: util_max = 0.05 >= 0 <= 1 (0..1, mean utilisation of a minute that counts as idle)
-- columns:
--   engine: serving engine; null = GPUs without one
--   stack: model x precision x engine x GPU
--   gpus: GPUs
--   gpu_power_w_mean: mean power of one GPU, W
--   energy_kwh: energy, kWh
--   idle_energy_kwh: of this, in idle minutes, kWh; null = energy or utilisation is known in no minute
--   simulated_ratio: share of simulated samples, 0..1
SELECT
    engine,
    max(stack) AS stack,
    count(DISTINCT uuid) AS gpus,
    round(sum(power_w_sum) / sum(power_samples), 1) AS gpu_power_w_mean,
    round(sum(energy_j) / 3.6e6, 6) AS energy_kwh,
    round(
        sum(CASE WHEN util_ratio_sum <= $util_max * util_samples THEN energy_j ELSE 0 END)
        FILTER (util_samples > 0 AND energy_j IS NOT NULL) / 3.6e6, 6
    ) AS idle_energy_kwh,
    round(sum(simulated_samples) / sum(samples), 4) AS simulated_ratio
FROM gpu_minute
WHERE minute >= since($hours)
GROUP BY engine
ORDER BY energy_kwh DESC, engine
