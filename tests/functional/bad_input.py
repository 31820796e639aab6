#!/usr/bin/env python3
"""Bad input at every flag and field: a message that names the field, an exit code or status that says so, and nothing half-applied
(row counts of every table are the same before and after). `bad_input.py BUILD`."""
import http.client
import json
import os
import sqlite3
import subprocess
import sys

from support import World, fail, need, wait_for

world = World(sys.argv[1])


def counts():
    with sqlite3.connect(os.path.join(world.data_dir, "tessera.db"), timeout=10) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        # A refused request may be remembered under its idempotency key and audited; it may not leave anything else.
        return {t: database.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables
                if t not in ("idempotency", "audit", "heartbeats")}


try:
    up = world.start(world.bin + "/tessera", "up", "--data-dir", world.data_dir, "--run-dir", world.run_dir, "--listen", "127.0.0.1:0",
                     log="up.log")
    path = os.path.join(world.data_dir, "endpoint")
    endpoint = wait_for("tessera up", lambda: os.path.exists(path) and open(path).read().strip(), alive=up)
    admin_file = os.path.join(world.data_dir, "admin.key")
    admin = open(admin_file).read().strip()

    def tessera(*args, key=admin_file):
        env = dict(world.env, TESSERA_ENDPOINT=endpoint, TESSERA_KEY_FILE=key)
        return subprocess.run([world.bin + "/tessera", *args], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    tenant_file = os.path.join(world.dir, "alice.key")
    made = json.loads(tessera("-o", "json", "admin", "create-tenant", "alice", "--key-out", tenant_file).stdout)
    tenant_id, tenant = made["id"], open(tenant_file).read().strip()
    assert tessera("admin", "deposit", tenant_id, "10.00").returncode == 0
    before = counts()

    # -- the command line -----------------------------------------------------------------------------------------------
    sku = ["admin", "add-sku", "x", "--price", "1.00", "--memory", "1GiB", "--compute", "10%"]

    def with_flag(flag, value):
        args = list(sku)
        if flag in args:
            args[args.index(flag) + 1] = value
        else:
            args += [flag, value]
        return args

    table = [(with_flag("--memory", v), "memory") for v in ("-1", "4GB", "abc", "0B", "1e9", "99999999999TiB", "1.00000000001GiB", "")]
    table += [(with_flag("--compute", v), "compute") for v in ("0%", "101%", "33", "-5%", "half", "")]
    table += [(with_flag("--price", v), "price") for v in ("-1", "1.0000001", "1e3", "abc", "99999999999999999999", "")]
    table += [(with_flag("--cpu", v), "cpu") for v in ("-1", "x", "99999999999999999999", "1.5")]
    table += [(with_flag("--ram", v), "ram") for v in ("-1", "4GB", "x")]
    table += [(["admin", "deposit", tenant_id, v], "amount") for v in ("0", "-5", "1e9", "abc", "1.0000001", "9" * 30, "")]
    table += [(["admin", "deposit", "../v1/me", "1.00"], "tenant"), (["show", "a/b"], "instance"), (["stop", "x" * 100], "instance"),
              (["rent", "a100-80.third", "--env", "NOEQUALS", "--", "true"], "env"),
              (["rent", "a100-80.third", "--count", "65", "--", "true"], "count"),
              (["rent", "a100-80.third", "--per-node-min", "2", "--", "true"], "count"),
              (["rent", "a100-80.third", "--count", "2", "--same-rack", "no", "--", "true"], "same-rack"),
              (["reservation", "create", "none", "--tenant", tenant_id], "sku"),
              (["reservation", "create", "a100-80.third", "--tenant", "t-none"], "tenant"),
              (["reservation", "create", "a100-80.third", "--tenant", tenant_id, "--units", "0"], "units"),
              (["reservation", "create", "a100-80.third", "--tenant", tenant_id, "--end", "tomorrow"], "end"),
              (["reservation", "delete", "a/b"], "reservation"),
              (["run", "--memory", "-1", "--", "true"], "memory"), (["run", "--memory", "4GB", "--", "true"], "memory"),
              (["run", "--memory", "1GiB", "--compute", "0%", "--", "true"], "compute"),
              (["run", "--memory", "1GiB", "--cards", "0", "--", "true"], "cards"),
              (["run", "--memory", "1GiB", "--cards", "x", "--", "true"], "cards"),
              (["rent", "a100-80.third", "--priority", "x", "--", "true"], "priority"),
              (["rent", "a100-80.third", "--requeue", "--", "true"], "spot"),
              (["admin", "set-quota", "lab", "--cards", "-1"], "cards"), (["admin", "set-quota", "lab", "--cards", "1.0001"], "cards"),
              (["admin", "set-quota", "lab", "--memory", "4GB"], "memory"), (["admin", "set-quota", "lab", "--lend-memory", "x"], "lend-memory"),
              (["admin", "set-quota", "lab", "--weight", "0"], "weight"), (["admin", "set-quota", "lab", "--parent", "none"], "parent"),
              (["admin", "set-quota", "t-nobody"], "name"), (["admin", "set-queue", "--reclaim", "all"], "reclaim"),
              (["admin", "set-queue", "--fair-share", "maybe"], "fair-share"), (["admin", "set-priority-max", "a/b", "1"], "tenant"),
              (["admin", "set-priority-max", tenant_id, "high"], "priority-max"),
              (["admin", "set-priority-max", tenant_id, "1000000001"], "priority_max"),
              (["up", "--listen", "nowhere"], "listen"), (["up", "--listen", "127.0.0.1:99999"], "listen")]
    for args, field in table:
        done = tessera(*args)
        text = done.stderr + done.stdout
        if done.returncode != 2 or field not in text:
            fail(f"tessera {' '.join(args)}: exit {done.returncode}, expected 2 and a message naming {field}: {text.strip()[:300]}")
    need(True, f"{len(table)} command lines refused with exit code 2 and the field's name")
    for args in (["rent"], ["rent", "x"], ["nonsense"], ["skus", "--nonsense"], ["admin"], ["-o", "xml", "skus"]):
        done = tessera(*args)
        if done.returncode != 2:
            fail(f"tessera {' '.join(args)}: exit {done.returncode}, expected 2")
    need(tessera("show", "does-not-exist", key=tenant_file).returncode == 3, "an unknown id ends with exit code 3")
    need(counts() == before, "the database is as it was")

    # -- the REST API ---------------------------------------------------------------------------------------------------
    host = endpoint.removeprefix("http://")

    def call(method, target, body, key, raw=False):
        connection = http.client.HTTPConnection(host, timeout=30)
        call.number += 1
        connection.request(method, target, body=body if raw else json.dumps(body),
                           headers={"authorization": "Bearer " + key, "content-type": "application/json",
                                    "idempotency-key": f"bad-{call.number}"})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()

    call.number = 0
    whole = {"sku": "a100-80.third", "name": "n", "command": ["true"], "environment": {"A": "b"}}
    wrong = {"sku": [1, None, {}, "", "x" * 5000, True], "name": [1, [], "x" * 5000, "\u0000"],
             "command": ["true", [], [1], {}, [""], ["x" * 40000], ["a\u0000b"], ["x"] * 300],
             "environment": [[], "A=b", {"": "x"}, {"A=B": "x"}, {"LD_PRELOAD": "x"}, {"TESSERA_SOCKET": "x"}, {"A": 1}, {"A": "\u0000"}],
             "priority": ["high", 1.5, 2**40, -2**40, True, []], "spot": [1, "yes", []], "requeue": [1, "yes", True]}
    cases = [("/v1/instances", tenant, dict(whole, **{field: value}), field) for field, values in wrong.items() for value in values]
    cases += [("/v1/instances", tenant, dict(whole, nonsense=1), "nonsense"),
              ("/v1/instances", tenant, {k: v for k, v in whole.items() if k != "sku"}, "sku"),
              ("/v1/instances", tenant, {k: v for k, v in whole.items() if k != "command"}, "command")]
    good_sku = {"name": "s", "memory": "1GiB", "compute": "10%", "price_per_hour": "1.00"}
    wrong = {"name": ["", 1, "UPPER CASE", "x" * 500], "memory": [1, -1, "4GB", "0B", "-1GiB", "9" * 30, None],
             "compute": [-1, 0, 1001, "0%", "200%", "x"], "price_per_hour": [1, 1.5, "-1", "1e3", "0.0000001", "9" * 30],
             "cpu_millis": [-1, 1.5, "x", 2**40, True], "ram": [-1, "-1", "4GB"]}
    cases += [("/v1/skus", admin, dict(good_sku, **{field: value}), field) for field, values in wrong.items() for value in values]
    cases += [(f"/v1/tenants/{tenant_id}/deposits", admin, {"amount": v}, "amount") for v in (1, -1, "-1", "0", "1e3", "9" * 30, None, [], "")]
    cases += [("/v1/tenants", admin, {"name": v}, "name") for v in (1, "", "x" * 5000, None, [])]
    for target, key, body, field in cases:
        status, text = call("POST", target, body, key)
        if status != 400 or field not in text:
            fail(f"POST {target} {json.dumps(body)[:200]}: {status}, expected 400 naming {field}: {text[:300]}")
    for raw in ("", "{", "[]", "null", '{"sku":"a","sku":"b","command":["true"]}', "{" * 2000, '"' + "x" * 100):
        status, text = call("POST", "/v1/instances", raw, tenant, raw=True)
        if status != 400:
            fail(f"POST /v1/instances {raw[:60]!r}: {status}, expected 400: {text[:200]}")
    status, _ = call("POST", "/v1/instances", "x" * (2 << 20), tenant, raw=True)
    need(status == 413, "a body over the bound is 413")
    need(len(cases) > 60, f"{len(cases)} bodies refused with 400 and the field's name")
    need(counts() == before, "the database is as it was")
finally:
    world.close()
