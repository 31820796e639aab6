-- What each instance cost so far, from its events alone: a run lasts from 'running' to the first final state, or to
-- the last heartbeat while it is open. Whole hours and the rest are multiplied apart to stay within 64 bits; division
-- rounds down to the micro-unit.
WITH runs AS (
  SELECT e.instance_id, e.generation,
         min(CASE WHEN e.state = 'running' THEN e.wall_micros END) AS started,
         coalesce(min(CASE WHEN e.state IN ('stopped', 'ended', 'failed', 'released') THEN e.wall_micros END),
                  max(h.seen_micros)) AS finished
  FROM instance_events e
  LEFT JOIN heartbeats h ON h.instance_id = e.instance_id AND h.generation = e.generation
  GROUP BY e.instance_id, e.generation),
used AS (
  SELECT instance_id, sum(CASE WHEN finished > started THEN finished - started ELSE 0 END) AS micros
  FROM runs GROUP BY instance_id)
SELECT i.tenant_id, i.id, i.name, u.micros,
       i.price_per_hour_micro * (u.micros / 3600000000)
       + i.price_per_hour_micro * (u.micros % 3600000000) / 3600000000 AS amount_micro
FROM instances i JOIN used u ON u.instance_id = i.id
ORDER BY i.tenant_id, i.seq
