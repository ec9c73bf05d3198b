-- question: What did each GPU do in each minute? Sums and counts, so that minutes add up to hours and GPUs to nodes.
-- source: telemetry_node
-- columns:
--   minute: start of the minute, UTC
--   cluster: cluster
--   node: node
--   uuid: GPU
--   name: device model
--   engine: serving engine on this GPU; null = none
--   stack: model x precision x engine x GPU
--   workload: workload class
--   first_ts_ns: first sample, ns since 1970 UTC
--   last_ts_ns: last sample, ns since 1970 UTC
--   samples: samples in the minute
--   simulated_samples: of these, simulated
--   estimated_samples: of these, estimated
--   power_samples: samples whose power is known
--   power_w_sum: sum of power, W; divide by power_samples for the mean
--   power_w_max: highest power, W
--   covered_s: time that the samples stand for, s: the first to the last, extended by one sample; null = one sample
--   energy_j: energy, J: the counter's difference, extended by one sample; where the counter is unknown or was reset,
--       mean power times the time from the first to the last, extended in the same way; null = fewer than two samples,
--       because one sample does not say for how long it stands (covered_s is null there too, so means stay right)
--   counted_samples: samples with an energy counter
--   util_samples: samples whose utilisation is known
--   util_ratio_sum: sum of utilisation, 0..1 each
--   sm_samples: samples whose SM clock is known
--   sm_mhz_sum: sum of SM clocks, MHz
--   temp_c_max: highest temperature, C
--   locked_samples: samples with a clock lock of ours
--   limit_samples: samples whose power limit and its default are known
--   limited_samples: samples with a power limit below the default
--   throttle_samples: samples whose throttle reasons are known
--   capped_samples: samples throttled by a power limit (NVML reason 0x4)
--   capped_by_us_samples: of these, with a limit below the default
--   thermal_samples: samples throttled for temperature (NVML reasons 0x20, 0x40)
--   brake_samples: samples slowed by the hardware (NVML reasons 0x8, 0x80)
WITH counted AS (
    SELECT
        ts_ns // 60000000000 AS minute_number,
        uuid,
        engine,
        any_value(cluster) AS cluster,
        any_value(node) AS node,
        any_value(name) AS name,
        any_value(stack) AS stack,
        any_value(workload) AS workload,
        min(ts_ns) AS first_ts_ns,
        max(ts_ns) AS last_ts_ns,
        count(*) AS samples,
        count_if(quality = 'simulated') AS simulated_samples,
        count_if(quality = 'estimated') AS estimated_samples,
        count(power_w) AS power_samples,
        sum(power_w) AS power_w_sum,
        max(power_w) AS power_w_max,
        max(ts_ns) FILTER (power_w IS NOT NULL) - min(ts_ns) FILTER (power_w IS NOT NULL) AS power_ns,
        count(energy_mj) AS counted_samples,
        arg_min(energy_mj, ts_ns) AS energy_first_mj,
        arg_max(energy_mj, ts_ns) AS energy_last_mj,
        max(energy_mj) AS energy_max_mj,
        count(util_ratio) AS util_samples,
        sum(util_ratio) AS util_ratio_sum,
        count(sm_mhz) AS sm_samples,
        sum(sm_mhz) AS sm_mhz_sum,
        max(temp_c) AS temp_c_max,
        count(sm_lock_mhz) AS locked_samples,
        count(limit_w < limit_default_w) AS limit_samples,
        count_if(limit_w < limit_default_w) AS limited_samples,
        count(throttle) AS throttle_samples,
        count_if(throttle & 4 > 0) AS capped_samples,
        count_if(throttle & 4 > 0 AND limit_w < limit_default_w) AS capped_by_us_samples,
        count_if(throttle & 96 > 0) AS thermal_samples,
        count_if(throttle & 136 > 0) AS brake_samples
    FROM source_rows
    GROUP BY minute_number, uuid, engine
)

SELECT
    to_timestamp(minute_number * 60) AS minute,
    cluster, node, uuid, name, engine, stack, workload,
    first_ts_ns,
    last_ts_ns,
    samples::BIGINT AS samples,
    simulated_samples::BIGINT AS simulated_samples,
    estimated_samples::BIGINT AS estimated_samples,
    power_samples::BIGINT AS power_samples,
    power_w_sum,
    power_w_max,
    (last_ts_ns - first_ts_ns) / 1e9 * samples / nullif(samples - 1, 0) AS covered_s,
    CASE
        WHEN counted_samples >= 2 AND energy_last_mj = energy_max_mj AND energy_last_mj >= energy_first_mj
            THEN (energy_last_mj - energy_first_mj) / 1000.0 * counted_samples / (counted_samples - 1)
        ELSE power_w_sum * power_ns / 1e9 / nullif(power_samples - 1, 0)
    END::DOUBLE AS energy_j,
    counted_samples::BIGINT AS counted_samples,
    util_samples::BIGINT AS util_samples,
    util_ratio_sum,
    sm_samples::BIGINT AS sm_samples,
    sm_mhz_sum::DOUBLE AS sm_mhz_sum,
    temp_c_max,
    locked_samples::BIGINT AS locked_samples,
    limit_samples::BIGINT AS limit_samples,
    limited_samples::BIGINT AS limited_samples,
    throttle_samples::BIGINT AS throttle_samples,
    capped_samples::BIGINT AS capped_samples,
    capped_by_us_samples::BIGINT AS capped_by_us_samples,
    thermal_samples::BIGINT AS thermal_samples,
    brake_samples::BIGINT AS brake_samples
FROM counted
