-- question: What did each serving engine do in each minute, and how fast? Histograms are pooled, never averaged.
-- source: engine_reading
-- columns:
--   minute: start of the minute, UTC
--   cluster: cluster
--   node: node that reports the engine
--   engine: serving engine
--   stack: model x precision x engine x GPU
--   workload: workload class
--   first_ts_ns: first reading, ns since 1970 UTC
--   samples: readings in the minute
--   simulated_samples: of these, simulated
--   load_samples: readings whose batch size is known
--   running_sum: sum of requests in the batch; divide by load_samples for the mean
--   waiting_sum: sum of waiting requests
--   generated_tokens: tokens generated: the counter's difference, extended by one reading; null = no counter, or reset
--   finished_requests: requests finished, in the same way
--   tbt_index: time between tokens: buckets at scale 5, bucket i holds 2**(i/32) < ms <= 2**((i+1)/32)
--   tbt_count: count in each bucket
--   ttft_index: time to first token: buckets at scale 5
--   ttft_count: count in each bucket
--   e2e_index: request duration: buckets at scale 5
--   e2e_count: count in each bucket
WITH counted AS (
    SELECT
        ts_ns // 60000000000 AS minute_number,
        engine,
        any_value(cluster) AS cluster,
        any_value(node) AS node,
        any_value(stack) AS stack,
        any_value(workload) AS workload,
        min(ts_ns) AS first_ts_ns,
        count(*) AS samples,
        count_if(quality = 'simulated') AS simulated_samples,
        count(running) AS load_samples,
        sum(running) AS running_sum,
        sum(waiting) AS waiting_sum,
        count(generation_tokens_total) AS token_samples,
        max(generation_tokens_total) AS tokens_max,
        arg_min(generation_tokens_total, ts_ns) AS tokens_first,
        arg_max(generation_tokens_total, ts_ns) AS tokens_last,
        count(requests_total) AS request_samples,
        max(requests_total) AS requests_max,
        arg_min(requests_total, ts_ns) AS requests_first,
        arg_max(requests_total, ts_ns) AS requests_last
    FROM source_rows
    GROUP BY minute_number, engine
),

flat AS (
    SELECT
        ts_ns // 60000000000 AS minute_number, engine, 'tbt' AS kind, tbt_scale AS scale,
        unnest(tbt_index) AS bucket, unnest(tbt_count) AS hits
    FROM source_rows
    UNION ALL
    SELECT ts_ns // 60000000000, engine, 'ttft', ttft_scale, unnest(ttft_index), unnest(ttft_count) FROM source_rows
    UNION ALL
    SELECT ts_ns // 60000000000, engine, 'e2e', e2e_scale, unnest(e2e_index), unnest(e2e_count) FROM source_rows
),

pooled AS (
    SELECT minute_number, engine, kind, bucket_at_scale_5(bucket, scale) AS bucket, sum(hits)::BIGINT AS hits
    FROM flat
    GROUP BY ALL
),

histograms AS (
    SELECT
        minute_number,
        engine,
        list(bucket ORDER BY bucket) FILTER (kind = 'tbt') AS tbt_index,
        list(hits ORDER BY bucket) FILTER (kind = 'tbt') AS tbt_count,
        list(bucket ORDER BY bucket) FILTER (kind = 'ttft') AS ttft_index,
        list(hits ORDER BY bucket) FILTER (kind = 'ttft') AS ttft_count,
        list(bucket ORDER BY bucket) FILTER (kind = 'e2e') AS e2e_index,
        list(hits ORDER BY bucket) FILTER (kind = 'e2e') AS e2e_count
    FROM pooled
    GROUP BY ALL
)

SELECT
    to_timestamp(minute_number * 60) AS minute,
    cluster, node, engine, stack, workload,
    first_ts_ns,
    samples::BIGINT AS samples,
    simulated_samples::BIGINT AS simulated_samples,
    load_samples::BIGINT AS load_samples,
    running_sum::DOUBLE AS running_sum,
    waiting_sum::DOUBLE AS waiting_sum,
    counter_rise(tokens_first, tokens_last, tokens_max, token_samples) AS generated_tokens,
    counter_rise(requests_first, requests_last, requests_max, request_samples) AS finished_requests,
    tbt_index, tbt_count, ttft_index, ttft_count, e2e_index, e2e_count
FROM counted
LEFT JOIN histograms USING (minute_number, engine)
