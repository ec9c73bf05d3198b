-- question: Do controlled engines keep their latency against the hold-out, in the same minutes?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   arm: controlled = a limit or a clock was granted in the minute; holdout = flagged then, and never granted anything
--   engines: engines
--   tokens: gaps between tokens counted
--   tbt_p50_ms: median time between tokens, ms
--   tbt_p99_ms: p99 time between tokens, ms
--   ttft_p50_ms: median time to first token, ms
--   ttft_p99_ms: p99 time to first token, ms
--   e2e_p99_ms: p99 request duration, ms
--   tbt_p99_to_holdout_ratio: its p99 time between tokens over the hold-out's
--   ttft_p99_to_holdout_ratio: its p99 time to first token over the hold-out's
--   simulated_ratio: share of simulated readings, 0..1
-- Training jobs are left out: their steps are no requests.
-- Quantiles come from pooled histograms (2.2 % wide buckets, interpolated inside), never from means of quantiles.
-- A minute counts for the controlled arm when it was controlled within 15 s of its first sample: the minute in which
-- control began would otherwise bring uncontrolled seconds in.
WITH engine_minutes AS MATERIALIZED (
    SELECT * FROM engine_arm WHERE minute >= since($hours)
),

controlled AS (
    SELECT DISTINCT engine FROM engine_minutes WHERE arm = 'controlled'
),

compared AS MATERIALIZED (
    SELECT engines.minute, engines.engine, arms.arm, engines.samples, engines.simulated_samples
    FROM engine_minute AS engines
    INNER JOIN engine_minutes AS arms USING (minute, engine)
    WHERE engines.minute >= since($hours) AND coalesce(arms.granted_ns - engines.first_ts_ns < 15000000000, true)
        AND (arms.arm = 'controlled' OR engines.engine NOT IN (FROM controlled)) AND NOT trains(engines.workload)
),

both_arms AS (
    SELECT minute FROM compared GROUP BY minute HAVING min(arm) <> max(arm)
),

kept AS MATERIALIZED (
    SELECT * FROM compared SEMI JOIN both_arms USING (minute)
),

histograms AS (
    SELECT arm, unnest([
        {'kind': 'tbt', 'bucket': tbt_index, 'hits': tbt_count},
        {'kind': 'ttft', 'bucket': ttft_index, 'hits': ttft_count},
        {'kind': 'e2e', 'bucket': e2e_index, 'hits': e2e_count}
    ]) AS one
    FROM engine_minute
    INNER JOIN kept USING (minute, engine)
),

pooled AS (
    SELECT arm, kind, bucket, sum(hits) AS hits
    FROM (SELECT arm, one.kind, unnest(one.bucket) AS bucket, unnest(one.hits) AS hits FROM histograms)
    GROUP BY arm, kind, bucket
),

ranked AS (
    SELECT
        arm, kind, bucket, hits,
        sum(hits) OVER (PARTITION BY arm, kind ORDER BY bucket) AS seen,
        sum(hits) OVER (PARTITION BY arm, kind) AS total
    FROM pooled
),

quantiles AS (
    SELECT
        arm, kind, max(total) AS total,
        arg_min(bucket_ms(bucket, 1 - (seen - 0.5 * total) / hits), bucket) FILTER (seen >= 0.5 * total) AS p50_ms,
        arg_min(bucket_ms(bucket, 1 - (seen - 0.99 * total) / hits), bucket) FILTER (seen >= 0.99 * total) AS p99_ms
    FROM ranked
    GROUP BY arm, kind
),

arms AS (
    SELECT arm, count(DISTINCT engine) AS engines, sum(simulated_samples) / sum(samples) AS simulated
    FROM kept
    GROUP BY arm
),

wide AS (
    SELECT
        arm,
        max(total) FILTER (kind = 'tbt') AS tokens,
        max(p50_ms) FILTER (kind = 'tbt') AS tbt_p50_ms,
        max(p99_ms) FILTER (kind = 'tbt') AS tbt_p99_ms,
        max(p50_ms) FILTER (kind = 'ttft') AS ttft_p50_ms,
        max(p99_ms) FILTER (kind = 'ttft') AS ttft_p99_ms,
        max(p99_ms) FILTER (kind = 'e2e') AS e2e_p99_ms
    FROM quantiles
    GROUP BY arm
)

SELECT
    arm,
    engines,
    tokens::BIGINT AS tokens,
    round(tbt_p50_ms, 3) AS tbt_p50_ms,
    round(tbt_p99_ms, 3) AS tbt_p99_ms,
    round(ttft_p50_ms, 3) AS ttft_p50_ms,
    round(ttft_p99_ms, 3) AS ttft_p99_ms,
    round(e2e_p99_ms, 3) AS e2e_p99_ms,
    round(tbt_p99_ms / max(tbt_p99_ms) FILTER (arm = 'holdout') OVER (), 4) AS tbt_p99_to_holdout_ratio,
    round(ttft_p99_ms / max(ttft_p99_ms) FILTER (arm = 'holdout') OVER (), 4) AS ttft_p99_to_holdout_ratio,
    round(simulated, 4) AS simulated_ratio
FROM arms
LEFT JOIN wide USING (arm)
ORDER BY arm
