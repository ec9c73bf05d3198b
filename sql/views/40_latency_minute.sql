-- question: How long did tokens and requests take in each minute? One row per bucket, to be pooled by whoever asks.
-- columns:
--   minute: start of the minute, UTC
--   engine: serving engine
--   stack: model x precision x engine x GPU
--   kind: tbt = time between tokens, ttft = time to first token, e2e = request duration
--   bucket: i of 2**(i/32) < ms <= 2**((i+1)/32)
--   hits: how many fell into it
SELECT minute, engine, stack, 'tbt' AS kind, unnest(tbt_index) AS bucket, unnest(tbt_count) AS hits FROM engine_minute
UNION ALL
SELECT minute, engine, stack, 'ttft' AS kind, unnest(ttft_index), unnest(ttft_count) FROM engine_minute
UNION ALL
SELECT minute, engine, stack, 'e2e' AS kind, unnest(e2e_index), unnest(e2e_count) FROM engine_minute
