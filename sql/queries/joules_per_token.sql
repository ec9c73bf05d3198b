-- question: What does a generated token cost in energy, by stack and hour?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   hour: start of the hour, UTC
--   stack: model x precision x engine x GPU
--   engines: engines with tokens and energy known in the same minutes
--   generated_tokens: tokens generated
--   tokens_per_s: tokens per second of all these engines together
--   energy_kwh: energy of their GPUs, kWh
--   j_per_token: energy per generated token, J; null = no token
--   simulated_ratio: share of simulated samples, 0..1
WITH energy AS (
    SELECT
        minute, engine, sum(energy_j) AS energy_j, min(first_ts_ns) AS first_ts_ns, max(last_ts_ns) AS last_ts_ns,
        sum(samples) AS samples, sum(simulated_samples) AS simulated_samples,
        quantile_disc(covered_s / samples, 0.5) AS spacing_s
    FROM gpu_minute
    WHERE minute >= since($hours) AND engine IS NOT NULL
    GROUP BY minute, engine
    -- An engine whose energy is known on a part of its GPUs only would seem thrifty.
    HAVING count_if(energy_j IS NULL AND samples > 1) = 0 AND count(energy_j) > 0
),

tokens AS (
    SELECT minute, engine, max(stack) AS stack, sum(generated_tokens) AS generated_tokens
    FROM engine_minute
    WHERE minute >= since($hours)
    GROUP BY minute, engine
)

SELECT
    start_of_hour(minute) AS hour,
    stack,
    count(DISTINCT engine) AS engines,
    round(sum(generated_tokens)) AS generated_tokens,
    round(
        sum(generated_tokens) / ((max(last_ts_ns) - min(first_ts_ns)) / 1e9 + quantile_disc(spacing_s, 0.5)), 2
    ) AS tokens_per_s,
    round(sum(energy_j) / 3.6e6, 6) AS energy_kwh,
    round(sum(energy_j) / nullif(sum(generated_tokens), 0), 4) AS j_per_token,
    round(sum(simulated_samples) / sum(samples), 4) AS simulated_ratio
FROM energy
INNER JOIN tokens USING (minute, engine)
WHERE generated_tokens IS NOT NULL
GROUP BY hour, stack
ORDER BY hour, stack
