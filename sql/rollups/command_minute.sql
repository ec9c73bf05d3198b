-- question: What became of the commands of each GPU in each minute?
-- source: power_applied
-- columns:
--   minute: start of the minute, UTC
--   node: node
--   uuid: GPU
--   acks: acknowledgements
--   granted: commands applied or clamped that asked for a limit or a clock; one that asks for nothing controls nothing
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
    count_if(is_grant)::BIGINT AS granted,
    min(ts_ns) FILTER (is_grant) AS first_granted_ns,
    count_if(status = 'recommended')::BIGINT AS recommended,
    count_if(status = 'refused')::BIGINT AS refused,
    count_if(status = 'expired')::BIGINT AS expired,
    count_if(status = 'restored')::BIGINT AS restored
FROM (
    SELECT
        *,
        event = 'command' AND status IN ('applied', 'clamped')
        AND (requested_limit_w IS NOT NULL OR requested_sm_mhz IS NOT NULL) AS is_grant
    FROM source_rows
)
GROUP BY minute, uuid
