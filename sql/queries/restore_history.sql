-- question: When were limits put back, by what, and are they what was found before us?
-- param: hours = 24.0 > 0 <= 876000 (h, back from the newest row)
-- columns:
--   ts: time of the read-back, UTC
--   node: node
--   uuid: GPU
--   event: expiry, restore, foreign_change, not_actuatable or command
--   status: restored, expired, ...
--   reason: why
--   previous_limit_w: limit found before us, W
--   effective_limit_w: limit read back, W
--   effective_sm_mhz: clock lock in force, MHz; null = none
--   back_at_previous: limit equals the one found before us and no lock is left; null = not known
--   actuator: what set it
--   quality: measured, estimated or simulated
SELECT
    ts, node, uuid, event, status, reason, previous_limit_w, effective_limit_w, effective_sm_mhz,
    abs(effective_limit_w - previous_limit_w) < 0.5 AND effective_sm_mhz IS NULL AS back_at_previous,
    actuator, quality
FROM power_applied
WHERE ts >= since($hours) AND (event <> 'command' OR status IN ('restored', 'expired'))
ORDER BY ts DESC, node, uuid
