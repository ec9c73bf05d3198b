-- question: How much power do controlled GPUs save against the hold-out, and how sure is that?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- param: z = 1.96 > 0 <= 10 (standard errors, 1.96 = 95 % interval)
-- columns:
--   power_w_controlled_mean: mean power of a controlled GPU, W
--   power_w_holdout_mean: mean power of a hold-out GPU in the same minutes, W
--   saving_ratio: 1 - controlled / hold-out, whatever its sign
--   saving_low_ratio: lower end of the 95 % interval; null = fewer than two units in an arm
--   saving_high_ratio: upper end of the 95 % interval
--   j_per_token_controlled: energy per generated token of controlled engines, J
--   j_per_token_holdout: energy per generated token of hold-out engines, J
--   controlled_units: units compared: engines, or GPUs without one
--   holdout_units: the same in the hold-out
--   controlled_gpus: GPUs
--   holdout_gpus: GPUs
--   minutes: minutes in which both arms have rows
--   simulated_ratio: share of simulated samples, 0..1
-- Training jobs are left out: each is its own reference, and one that trains beside one that serves compares nothing.
-- The units are whole engines, since GPUs of one engine rise and fall together: the spread between engines, not between
-- samples, is what the interval must show. It is the normal interval of the logarithm of the ratio of the two means
-- (delta method): var(log ratio) = var_c / (n_c mean_c^2) + var_h / (n_h mean_h^2).
-- Controlled is a minute in which a limit or a clock was granted; an envelope that grants nothing controls nothing. The
-- hold-out are GPUs that the newest envelope of the minute flags and that were granted nothing in all the hours asked.
-- A minute counts for the controlled arm when it was controlled within 15 s of its first sample: the minute in which
-- control began would otherwise bring uncontrolled seconds in.
WITH controlled AS (
    SELECT DISTINCT uuid FROM command_minute WHERE granted > 0 AND minute >= since($hours)
),

compared AS MATERIALIZED (
    SELECT
        arms.arm, coalesce(gpus.engine, gpus.uuid) AS unit, gpus.minute, gpus.engine, gpus.uuid,
        gpus.power_w_sum, gpus.power_samples, gpus.energy_j, gpus.samples, gpus.simulated_samples
    FROM gpu_minute AS gpus
    INNER JOIN gpu_arm AS arms USING (minute, uuid)
    WHERE gpus.minute >= since($hours) AND coalesce(arms.granted_ns - gpus.first_ts_ns < 15000000000, true)
        AND (arms.arm = 'controlled' OR gpus.uuid NOT IN (FROM controlled)) AND NOT trains(gpus.workload)
),

both_arms AS (
    SELECT minute FROM compared GROUP BY minute HAVING min(arm) <> max(arm)
),

rows_by_arm AS MATERIALIZED (
    SELECT * FROM compared SEMI JOIN both_arms USING (minute)
),

units AS (
    SELECT arm, unit, sum(power_w_sum) / sum(power_samples) AS power_w, count(DISTINCT uuid) AS gpus
    FROM rows_by_arm
    GROUP BY arm, unit
    HAVING sum(power_samples) > 0
),

arms AS (
    SELECT
        avg(power_w) FILTER (arm = 'controlled') AS c, var_samp(power_w) FILTER (arm = 'controlled') AS c_var,
        count(*) FILTER (arm = 'controlled') AS c_units, sum(gpus) FILTER (arm = 'controlled') AS c_gpus,
        avg(power_w) FILTER (arm = 'holdout') AS h, var_samp(power_w) FILTER (arm = 'holdout') AS h_var,
        count(*) FILTER (arm = 'holdout') AS h_units, sum(gpus) FILTER (arm = 'holdout') AS h_gpus
    FROM units
    HAVING count(DISTINCT arm) = 2
),

bounds AS (
    SELECT *, $z * sqrt(c_var / (c_units * c * c) + h_var / (h_units * h * h)) AS width FROM arms
),

engine_energy AS (
    SELECT minute, engine, arm, sum(energy_j) AS energy_j
    FROM rows_by_arm
    WHERE engine IS NOT NULL
    GROUP BY ALL
    HAVING count_if(energy_j IS NULL AND samples > 1) = 0 AND count(energy_j) > 0
),

tokens AS (
    SELECT
        sum(energy_j) FILTER (arm = 'controlled') / nullif(sum(generated_tokens) FILTER (arm = 'controlled'), 0) AS c,
        sum(energy_j) FILTER (arm = 'holdout') / nullif(sum(generated_tokens) FILTER (arm = 'holdout'), 0) AS h
    FROM engine_energy
    INNER JOIN (
        SELECT minute, engine, sum(generated_tokens) AS generated_tokens
        FROM engine_minute
        WHERE minute >= since($hours) AND generated_tokens IS NOT NULL
        GROUP BY minute, engine
    ) USING (minute, engine)
)

SELECT
    round(bounds.c, 2) AS power_w_controlled_mean,
    round(bounds.h, 2) AS power_w_holdout_mean,
    round(1 - bounds.c / bounds.h, 4) AS saving_ratio,
    round(1 - bounds.c / bounds.h * exp(width), 4) AS saving_low_ratio,
    round(1 - bounds.c / bounds.h * exp(-width), 4) AS saving_high_ratio,
    round(tokens.c, 4) AS j_per_token_controlled,
    round(tokens.h, 4) AS j_per_token_holdout,
    c_units AS controlled_units,
    h_units AS holdout_units,
    c_gpus::BIGINT AS controlled_gpus,
    h_gpus::BIGINT AS holdout_gpus,
    (SELECT count(*) FROM both_arms) AS minutes,
    (SELECT round(sum(simulated_samples) / sum(samples), 4) FROM rows_by_arm) AS simulated_ratio
FROM bounds
CROSS JOIN tokens
