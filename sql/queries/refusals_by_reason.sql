-- question: Which commands were refused, and why?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   reason: the capper's reason
--   refusals: GPUs refused
--   gpus: different GPUs
--   nodes: different nodes
--   refused_ratio: share of all acknowledged commands, 0..1
--   first_seen: first, UTC
--   last_seen: last, UTC
--   simulated_ratio: share of simulated rows, 0..1
WITH commands AS (
    SELECT * FROM power_applied WHERE ts >= since($hours) AND event = 'command'
)

SELECT
    reason,
    count(*) AS refusals,
    count(DISTINCT uuid) AS gpus,
    count(DISTINCT node) AS nodes,
    round(count(*) / (SELECT count(*) FROM commands), 6) AS refused_ratio,
    min(ts) AS first_seen,
    max(ts) AS last_seen,
    round(count_if(quality = 'simulated') / count(*), 4) AS simulated_ratio
FROM commands
WHERE status = 'refused'
    AND capper_id IS DISTINCT FROM 'silent' -- it took the command and did not answer: whether it refused is unknown
GROUP BY reason
ORDER BY refusals DESC, reason
