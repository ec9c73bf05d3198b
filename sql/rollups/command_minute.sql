-- question: What became of the commands of each GPU in each minute?
-- source: power_applied
-- columns:
--   minute: start of the minute, UTC
--   node: node
--   uuid: GPU
--   acks: acknowledgements
--   granted: commands applied or clamped
--   first_granted_ns: the first of them, ns since 1970 UTC
--   recommended: commands only recommended
--   refused: commands refused
--   expired: leases that ran out
--   restored: values put back
SELECT
    to_timestamp(ts_ns // 60000000000 * 60) AS minute,
    any_value(node) AS node,
    uuid,
    count(*)::BIGINT AS acks,
    count_if(event = 'command' AND status IN ('applied', 'clamped'))::BIGINT AS granted,
    min(ts_ns) FILTER (event = 'command' AND status IN ('applied', 'clamped')) AS first_granted_ns,
    count_if(status = 'recommended')::BIGINT AS recommended,
    count_if(status = 'refused')::BIGINT AS refused,
    count_if(status = 'expired')::BIGINT AS expired,
    count_if(status = 'restored')::BIGINT AS restored
FROM source_rows
GROUP BY minute, uuid
