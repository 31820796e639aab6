#!/usr/bin/env python3
"""Reservations and gangs through the command line on `tessera up` with two simulated cards: what is reserved is there for its tenant, also after
`tessera up` was killed; a gang starts together or not at all. Witness: SQL on the database. `reserved.py BUILD`."""
import json
import os
import sqlite3
import subprocess
import sys
import time

from support import World, fail, need, wait_for

world = World(sys.argv[1], cards="A100-80,A100-80")
FULL = "a100-80.full"


def start_up():
    up = world.start(world.bin + "/tessera", "up", "--data-dir", world.data_dir, "--run-dir", world.run_dir, "--listen", "127.0.0.1:0",
                     log="up.log")
    path = os.path.join(world.data_dir, "endpoint")
    return up, wait_for("tessera up", lambda: os.path.exists(path) and open(path).read().strip(), alive=up)


def cards(id):
    """The cards of a running instance, by the database."""
    with sqlite3.connect(os.path.join(world.data_dir, "tessera.db"), timeout=10) as database:
        state, text = database.execute("SELECT state, cards FROM instances WHERE id = ?", (id,)).fetchone()
    return json.loads(text) if state == "running" else []


try:
    up, endpoint = start_up()
    keys = {"operator": os.path.join(world.data_dir, "admin.key")}

    def tessera(who, *args, code=0):
        env = dict(world.env, TESSERA_ENDPOINT=endpoint, TESSERA_KEY_FILE=keys[who])
        done = subprocess.run([world.bin + "/tessera", "-o", "json", *args], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=120)
        if done.returncode != code:
            fail(f"tessera {' '.join(args)}: exit {done.returncode}, expected {code}: {done.stderr.strip()}")
        return json.loads(done.stdout) if code == 0 else done.stderr

    def rent(who, *flags, wait=True):
        return tessera(who, "rent", FULL, *(["--wait"] if wait else []), *flags, "--", "/bin/sleep", "600")

    def kept(**facts):
        one = tessera("operator", "reservation", "list")["reservations"][0]
        return one if all(one[name] == value for name, value in facts.items()) else None

    ids = {}
    for name in ("alice", "bob"):
        keys[name] = os.path.join(world.dir, name + ".key")
        ids[name] = tessera("operator", "admin", "create-tenant", name, "--key-out", keys[name])["id"]
        tessera("operator", "admin", "deposit", ids[name], "100.00")

    refused = tessera("operator", "reservation", "create", FULL, "--tenant", ids["alice"], "--units", "3", code=5)
    need("2 of 3 units fit now" in refused, "three units on two cards are refused: " + refused.strip())
    need(tessera("operator", "reservation", "list")["reservations"] == [], "and nothing is kept of them")
    made = tessera("operator", "reservation", "create", FULL, "--tenant", ids["alice"])
    need(made["free"] == 1 and made["state"] == "active", "one unit is reserved for alice")
    bob = rent("bob")
    need(len(cards(bob["id"])) == 1, "bob has the other card")
    waits = rent("bob", wait=False)
    need(waits["state"] == "queued", "bob's second waits: " + waits["waiting_for"])
    tessera("bob", "rent", FULL, "--reservation", made["id"], "--", "/bin/true", code=1)
    alice = rent("alice", "--reservation", made["id"])
    need(alice["state"] == "running" and alice["reservation"] == made["id"], "alice's instance runs in the reservation")
    need(cards(alice["id"]) != cards(bob["id"]), "on a card of its own")

    # A crash: the reservation and who runs in it are known again.
    children = subprocess.run(["pgrep", "-P", str(up.pid), "-x", "tesserad"], capture_output=True, text=True).stdout.split()
    up.kill()
    up.wait()
    for child in children:
        os.kill(int(child), 9)
    os.remove(os.path.join(world.data_dir, "endpoint"))
    up, endpoint = start_up()
    wait_for("the reservation to be used again", lambda: kept(used=1, free=0, missing=0), alive=up)
    need(tessera("bob", "show", waits["id"])["state"] == "queued", "after a crash the reservation holds, bob's second still waits")
    tessera("alice", "stop", alice["id"])
    wait_for("the unit to be back", lambda: kept(used=0, free=1), alive=up)
    time.sleep(2)
    need(tessera("bob", "show", waits["id"])["state"] == "queued", "alice stopped; her unit is kept, bob's second still waits")
    tessera("operator", "reservation", "delete", made["id"])
    wait_for("bob's second to run", lambda: cards(waits["id"]), alive=up)
    need(True, "the reservation was deleted and bob's second runs")

    # A gang.
    tessera("bob", "release", bob["id"])
    gang = rent("alice", "--count", "2", "--name", "train", wait=False)
    members = [member["id"] for member in gang["instances"]]
    need(len(members) == 2 and not any(cards(id) for id in members), "one card is free, a gang of two waits")
    told = tessera("alice", "explain", members[0])
    need("gang: 1 of 2 members fit" in told["waiting_for"], "explain says: " + told["waiting_for"])
    tessera("bob", "release", waits["id"])
    wait_for("both to run", lambda: all(cards(id) for id in members), alive=up)
    need(cards(members[0]) != cards(members[1]), "both run, on a card each")
    tessera("alice", "release", members[0])
    time.sleep(2)
    need(len(cards(members[1])) == 1, "one is released, the other runs on")
    again = rent("alice", "--count", "2", wait=False)["instances"]
    tessera("alice", "stop", again[0]["id"])
    wait_for("the other to be stopped", lambda: tessera("alice", "show", again[1]["id"])["state"] in ("stopped", "failed"), alive=up)
    need(len(cards(members[1])) == 1, "stopping a member that waits ends its gang, and nobody else")
finally:
    for who in ("alice", "bob"):  # instances outlive `tessera up`
        for one in tessera(who, "ps")["instances"]:
            tessera(who, "release", one["id"])
    world.close()
print("reserved: everything held")
