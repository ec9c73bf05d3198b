-- question: Where does the energy go: by serving stack and workload, GPUs without an engine included?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   stack: model x precision x engine x GPU; null = no engine on the GPU
--   workload: workload class
--   engines: serving engines
--   gpus: GPUs
--   gpu_hours: GPU time seen, h
--   gpu_power_w_mean: mean power of one GPU, W
--   energy_kwh: energy, kWh
--   energy_ratio: share of all energy, 0..1
--   simulated_ratio: share of simulated samples, 0..1
SELECT
    stack,
    workload,
    count(DISTINCT engine) AS engines,
    count(DISTINCT uuid) AS gpus,
    round(sum(covered_s) / 3600, 3) AS gpu_hours,
    round(sum(power_w_sum) / sum(power_samples), 1) AS gpu_power_w_mean,
    round(sum(energy_j) / 3.6e6, 6) AS energy_kwh,
    round(sum(energy_j) / sum(sum(energy_j)) OVER (), 4) AS energy_ratio,
    round(sum(simulated_samples) / sum(samples), 4) AS simulated_ratio
FROM gpu_minute
WHERE minute >= since($hours)
GROUP BY stack, workload
ORDER BY energy_kwh DESC, stack, workload
