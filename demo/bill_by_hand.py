"""A bill made from the stored events by plain SQL and nothing of Tessera's: what the real bill must equal."""

FINAL = ("stopped", "ended", "failed", "released")


def expected_micro(sql, tenant):
    """Each run from its 'running' event to its final event (or last heartbeat), an instance's price rounded down once; `sql` answers rows."""
    total = 0
    for id, price in sql("SELECT id, price_per_hour_micro FROM instances WHERE tenant_id = ?", tenant):
        micros = 0
        for (generation,) in sql("SELECT DISTINCT generation FROM instance_events WHERE instance_id = ?", id):
            events = dict(sql("SELECT state, wall_micros FROM instance_events WHERE instance_id = ? AND generation = ?", id, generation))
            if "running" not in events:
                continue
            ends = [events[state] for state in FINAL if state in events]
            end = min(ends) if ends else sql("SELECT seen_micros FROM heartbeats WHERE instance_id = ? AND generation = ?", id, generation)[0][0]
            micros += max(0, end - events["running"])
        total += price * micros // 3_600_000_000
    return total
