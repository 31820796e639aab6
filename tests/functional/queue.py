#!/usr/bin/env python3
"""Who goes next, on the whole product: two tenants with quotas of one group; one borrows what the other leaves, and when the owner wants it
back the borrower's cheapest spot instance is stopped, pays to that moment and, if it asked for it, waits again. The rules change live, by
the command line, by the file and SIGHUP, and outlive a restart. `queue.py BUILD`."""
import json
import os
import signal
import sqlite3
import subprocess
import sys

from support import World, fail, need, wait_for

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "demo"))
from bill_by_hand import expected_micro  # noqa: E402

world = World(sys.argv[1], cards="A100-80,A100-80")
GIB = 1 << 30
HALF = "a100-80.half"  # 500 per mille and half the memory of a card; 3.00 an hour, 1.50 as spot
admin_file = os.path.join(world.data_dir, "admin.key")
endpoint_file = os.path.join(world.data_dir, "endpoint")
keys, ids, state = {"operator": admin_file}, {}, {}


def start_up(*flags):
    state["up"] = world.start(world.bin + "/tessera", "up", "--data-dir", world.data_dir, "--run-dir", world.run_dir, "--listen",
                              "127.0.0.1:0", *flags, log="up.log")
    state["endpoint"] = wait_for("tessera up", lambda: os.path.exists(endpoint_file) and open(endpoint_file).read().strip(),
                                 alive=state["up"])


def stop_up():
    state["up"].send_signal(signal.SIGTERM)
    need(state["up"].wait(60) == 0, "tessera up ends cleanly")


def tessera(who, *args):
    env = dict(world.env, TESSERA_ENDPOINT=state["endpoint"], TESSERA_KEY_FILE=keys[who])
    return subprocess.run([world.bin + "/tessera", "-o", "json", *args], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=120)


def cli(who, *args):
    done = tessera(who, *args)
    if done.returncode != 0:
        fail(f"tessera {' '.join(args)}: {done.returncode} {done.stderr.strip()}")
    return json.loads(done.stdout)


def rent(who, name, *flags, wait=True):
    reply = cli(who, "rent", HALF, "--name", name, *(["--wait"] if wait else []), *flags, "--", "sleep", "600")
    ids[name] = (who, reply["id"])
    return reply


def show(name):
    return cli(ids[name][0], "show", ids[name][1])


def until(name, wanted):
    return wait_for(f"{name} to be {wanted}", lambda: (lambda i: i if i["state"] == wanted else None)(show(name)), alive=state["up"])


def use(who):
    return {row["name"]: row for row in cli("operator", "admin", "queue")["use"]}[ids[who]]


def cards(amount):
    return amount["card_millis"]


def sql(query, *parameters):
    with sqlite3.connect(os.path.join(world.data_dir, "tessera.db"), timeout=10) as database:
        return database.execute(query, parameters).fetchall()


def bill_is_right(who):
    bill = cli(who, "bill")
    micro = round(float(bill["total"]) * 1e6)
    by_hand = expected_micro(sql, ids[who])
    # Between the two looks an open run may get another heartbeat; closed ones are compared to the last micro-unit below.
    closed = [line for line in bill["lines"] if not line["open"]]
    for line in closed:
        started, ended = sql("SELECT (SELECT wall_micros FROM instance_events WHERE instance_id = ?1 AND generation = ?2 AND state = 'running'), "
                             "(SELECT wall_micros FROM instance_events WHERE instance_id = ?1 AND generation = ?2 AND state IN "
                             "('ended', 'stopped', 'failed'))", line["instance"], line["generation"])[0]
        whole, part = line["price_per_hour"].split(".")
        price = int(whole) * 1_000_000 + int((part + "000000")[:6])
        got = line["amount"].split(".")
        if int(got[0]) * 1_000_000 + int((got[1] + "000000")[:6]) != price * (ended - started) // 3_600_000_000:
            fail(f"{line} is not {price} an hour from {started} to {ended}")
    need(closed and abs(micro - by_hand) <= 50_000, f"the bill of {who}: {len(closed)} closed line(s) right to the last 0.000001")
    return {line["name"]: line for line in closed}


try:
    start_up()
    for name in ("owner", "borrower"):
        keys[name] = os.path.join(world.dir, name + ".key")
        ids[name] = cli("operator", "admin", "create-tenant", name, "--key-out", keys[name])["id"]
        cli("operator", "admin", "deposit", ids[name], "100.00")
    cli("operator", "admin", "set-quota", "lab")
    for name in ("owner", "borrower"):
        cli("operator", "admin", "set-quota", name, "--parent", "lab", "--cards", "1", "--memory", "80GiB")
    need(cards(cli("owner", "quota")["quota"]["nominal"]) == 1000, "each of two tenants has a card and 80 GiB of its own in one group")
    for args in (("admin", "set-quota", "borrower", "--cards", "9"), ("admin", "set-priority-max", ids["borrower"], "9")):
        need(tessera("borrower", *args).returncode == 4, f"a tenant may not `{' '.join(args[:2])}`")
    need(tessera("borrower", "rent", HALF, "--priority", "1", "--", "true").returncode == 4, "nor ask for more than its highest priority")

    plain = rent("borrower", "plain")
    spots = [rent("borrower", "spot-1", "--spot"), rent("borrower", "spot-2", "--spot", "--requeue"), rent("borrower", "spot-3", "--spot")]
    need(plain["price_per_hour"] == "3.00" and all(s["price_per_hour"] == "1.50" and s["priority"] == -1 for s in spots),
         "an ordinary half costs 3.00 an hour, a spot one 1.50")
    need(cards(use("borrower")["held"]) == 2000 and cards(use("borrower")["borrowed"]) == 1000, "the borrower holds two cards, one borrowed")

    rent("owner", "mine-1")
    ended = until("spot-3", "ended")
    need(show("mine-1")["state"] == "running" and ended["reason"].startswith(("preempted: ", "reclaimed: ")),
         f"the owner takes back half a card: the cheapest spot instance is stopped ({ended['reason']})")
    need([show(n)["state"] for n in ("plain", "spot-1", "spot-2")] == ["running"] * 3, "and nobody else is")
    line = bill_is_right("borrower")["spot-3"]
    need(line["spot"] and line["price_per_hour"] == "1.50" and line["to"] == ended["ended_at"], "it paid the spot price to the moment it ended")

    rent("owner", "mine-2")
    again = until("spot-2", "queued")
    need(again["generation"] == 2 and show("mine-2")["state"] == "running", "spot-2 asked for it and waits again, as generation 2")
    need(cards(use("borrower")["borrowed"]) == 0, "nothing is borrowed any more")
    wait_for("the scheduler to know of it", lambda: tessera("borrower", "explain", ids["spot-2"][1]).returncode == 0, alive=state["up"])
    explained = cli("borrower", "explain", ids["spot-2"][1])
    need(explained["spot"] and explained["queue"]["priority"] == -1 and cards(explained["quota"]["held"]) == 1000, "explain says how it stands")

    cli("operator", "admin", "set-queue", "--preemption", "false")
    waits = rent("owner", "mine-3", wait=False)
    need(waits["state"] == "queued" and show("spot-1")["state"] == "running", "without preemption the owner's third waits")
    cli("operator", "admin", "set-queue", "--preemption", "true")
    until("spot-1", "ended")
    until("mine-3", "running")
    need(True, "preemption is switched on while all run: a spot instance leaves for it at once")
    bill_is_right("borrower")

    before = cli("operator", "admin", "queue")
    stop_up()
    start_up()
    wait_for("all to be known again", lambda: cli("operator", "admin", "queue")["use"] == before["use"], alive=state["up"])
    need(cli("operator", "admin", "queue") == before, "after a restart the quotas and what is held under them are as before")

    # The file gives the rules instead.
    stop_up()
    config = os.path.join(world.dir, "up.yaml")

    def write(*tenants):
        with open(config, "w") as file:
            file.write("queue:\n  reclaim: any\n  quotas:\n    - name: lab\n" + "".join(
                f"    - name: {tenant}\n      parent: lab\n      nominal: {{card_millis: 1000}}\n" for tenant in tenants))
    write("t-nobody")
    done = subprocess.run([world.bin + "/tessera", "up", "--data-dir", world.data_dir, "--run-dir", world.run_dir, "--listen", "127.0.0.1:0",
                           "--config", config], env=world.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    need(done.returncode == 2 and f"queue.quotas[1].name: {config}:5: expected the id of a tenant" in done.stderr,
         "a file that names no tenant is refused with its line")
    write(ids["borrower"])
    start_up("--config", config)
    rules = cli("operator", "admin", "queue")
    need(rules["file"] == config and rules["policy"]["reclaim"] == "any" and rules["use"][1]["name"] == ids["borrower"],
         "with --config the file's rules hold")
    need(tessera("operator", "admin", "set-quota", "lab").returncode == 1, "and can be changed nowhere else")
    need(show("spot-2")["state"] == "queued" and cards(use("borrower")["held"]) == 500, "the borrower has half a card left, and waits")
    write(ids["borrower"], ids["owner"])
    state["up"].send_signal(signal.SIGHUP)
    taken = until("mine-3", "ended")
    until("spot-2", "running")
    need(taken["reason"].startswith("reclaimed: ") and cards(use("owner")["borrowed"]) == 0,
         f"SIGHUP gives the owner a quota: half a card too many goes back, from an ordinary instance as `reclaim: any` says ({taken['reason']})")
    write("t-nobody")
    state["up"].send_signal(signal.SIGHUP)
    wait_for("the refusal", lambda: "up.queue_refused" in open(os.path.join(world.dir, "up.log")).read(), alive=state["up"])
    need(cli("operator", "admin", "queue")["policy"]["quotas"][2]["name"] == ids["owner"], "SIGHUP takes no wrong rules")
    for name in ids:
        if name not in ("owner", "borrower"):
            cli(ids[name][0], "release", ids[name][1])
    for name in ("owner", "borrower"):
        wait_for("all to be over", lambda: all(not line["open"] for line in cli(name, "bill")["lines"]), alive=state["up"])
        need(expected_micro(sql, ids[name]) == round(float(cli(name, "bill")["total"]) * 1e6), f"the whole bill of {name} is right")
    need(cli("operator", "admin", "ledger")["sum"] == "0.00", "the ledger sums to zero")
finally:
    world.close()
