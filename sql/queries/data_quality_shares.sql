-- question: How much of the archive is measured, estimated or simulated, and how much of it is unknown?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   dataset: what is counted
--   rows_total: rows
--   measured_ratio: share measured, 0..1
--   estimated_ratio: share estimated, 0..1
--   simulated_ratio: share simulated, 0..1
--   unknown_power_ratio: share of rows without power (telemetry), 0..1
--   unknown_energy_ratio: share without an energy counter (telemetry), 0..1
--   unknown_util_ratio: share without utilisation (telemetry), 0..1
--   unserved_ratio: share of rows of GPUs without a known engine (telemetry), 0..1
WITH counted AS (
    SELECT
        'telemetry_node' AS dataset,
        sum(samples) AS n, sum(estimated_samples) AS estimated, sum(simulated_samples) AS simulated,
        sum(samples - power_samples) AS no_power, sum(samples - counted_samples) AS no_energy,
        sum(samples - util_samples) AS no_util, sum(samples) FILTER (engine IS NULL) AS unserved
    FROM gpu_minute
    WHERE minute >= since($hours)
    UNION ALL
    SELECT
        'power_applied', count(*), count_if(quality = 'estimated'), count_if(quality = 'simulated'),
        NULL, NULL, NULL, NULL
    FROM power_applied
    WHERE ts >= since($hours)
    UNION ALL
    SELECT
        'ledger_command', count(*), count_if(quality = 'estimated'), count_if(quality = 'simulated'),
        NULL, NULL, NULL, NULL
    FROM ledger_command
    WHERE ts >= since($hours)
    UNION ALL
    SELECT
        'anomaly_gpu', count(*), count_if(quality = 'estimated'), count_if(quality = 'simulated'),
        NULL, NULL, NULL, NULL
    FROM anomaly_gpu
    WHERE ts >= since($hours)
)

SELECT
    dataset,
    n::BIGINT AS rows_total,
    round((n - estimated - simulated) / n, 4) AS measured_ratio,
    round(estimated / n, 4) AS estimated_ratio,
    round(simulated / n, 4) AS simulated_ratio,
    round(no_power / n, 4) AS unknown_power_ratio,
    round(no_energy / n, 4) AS unknown_energy_ratio,
    round(no_util / n, 4) AS unknown_util_ratio,
    CASE WHEN dataset = 'telemetry_node' THEN round(coalesce(unserved, 0) / n, 4) END AS unserved_ratio
FROM counted
WHERE n > 0
ORDER BY dataset
