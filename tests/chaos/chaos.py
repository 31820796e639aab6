#!/usr/bin/env python3
"""`chaos.py BUILD KILLS SEED`: kills at random and checks that no byte, slice or cent is lost.

Six tenants hold thirds of two simulated cards and allocate and free at random in them. After every kill -9: an instance that was
not the target has the same main process as before; every slice is booked exactly once; the driver's own figure for an instance is
within its slice; the ledger sums to zero. At the end everybody leaves: the cards are empty, and every bill equals what SQL makes of
the stored events.
"""
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(here, "..", "functional"), os.path.join(here, "..", "..", "demo")]
from bill_by_hand import expected_micro  # noqa: E402
from support import MIB, World, fail, need, wait_for  # noqa: E402

build, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print(f"seed {seed}, {kills} kills", flush=True)
rng = random.Random(seed)
world = World(build, cards="A100-80,A100-80")
DEPOSIT = "50.00"


class Cloud:
    def __init__(self):
        self.up = None
        self.keys = {}

    def start(self):
        path = os.path.join(world.data_dir, "endpoint")
        if os.path.exists(path):
            os.unlink(path)
        self.up = world.start(world.bin + "/tessera", "up", "--data-dir", world.data_dir, "--run-dir", world.run_dir, "--listen",
                              "127.0.0.1:0", log="up.log")
        self.endpoint = wait_for("tessera up to listen", lambda: os.path.exists(path) and open(path).read().strip(), alive=self.up)
        self.keys["operator"] = os.path.join(world.data_dir, "admin.key")

    def cli(self, who, *args, ok=True):
        for _ in range(40):
            env = dict(world.env, TESSERA_ENDPOINT=self.endpoint, TESSERA_KEY_FILE=self.keys[who])
            done = subprocess.run([world.bin + "/tessera", "-o", "json", *args], env=env, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=120)
            if done.returncode == 6:  # not reachable: it was just killed
                time.sleep(0.1)
                continue
            break
        if ok and done.returncode != 0:
            fail(f"tessera {' '.join(args)}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def node_pid(self):
        out = subprocess.run(["pgrep", "-P", str(self.up.pid), "-x", "tesserad"], capture_output=True, text=True).stdout.split()
        return int(out[0]) if out else None


def sql(query, *parameters):
    with sqlite3.connect(os.path.join(world.data_dir, "tessera.db"), timeout=20) as database:
        return database.execute(query, parameters).fetchall()


def cgroup(pid):
    try:
        return open(f"/proc/{pid}/cgroup").read()
    except OSError:
        return ""


def holders(id):
    """pid -> bytes of an instance's processes, as the driver says."""
    return {pid: used for card in range(2) for pid, used in witness.processes(card).items() if id in cgroup(pid)}


def main_pid(id):
    """The tenant's program: the parent of the workers that hold memory on the cards."""
    for pid in holders(id):
        try:
            return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return None


def check(where):
    total = sql("SELECT coalesce(sum(amount_micro), 0) FROM entries")[0][0]
    if total != 0:
        fail(f"{where}: the ledger sums to {total}")
    for id in instances.values():
        used = sum(holders(id).values())
        if used > third:
            fail(f"{where}: instance {id} holds {used} bytes, {used - third} over its slice")


try:
    cloud = Cloud()
    cloud.start()
    witness = world.witness()
    tenants = [f"tenant-{i}" for i in range(6)]
    ids, instances = {}, {}
    program = world.program("churn")
    third = next(s for s in cloud.cli("operator", "skus")["skus"] if s["name"] == "a100-80.third")["memory_bytes"]
    for who in tenants:
        cloud.keys[who] = os.path.join(world.dir, who + ".key")
        ids[who] = cloud.cli("operator", "admin", "create-tenant", who, "--key-out", cloud.keys[who])["id"]
        cloud.cli("operator", "admin", "deposit", ids[who], DEPOSIT)
        instances[who] = cloud.cli(who, "rent", "a100-80.third", "--name", "work", "--wait", "--", program, "--processes", "2",
                                   "--operations", "500", "--stay", "--seed", str(seed))["id"]
    wait_for("all to compute", lambda: all(len(holders(id)) >= 1 for id in instances.values()))
    mains = {who: wait_for(f"{who}'s program", lambda: main_pid(instances[who])) for who in tenants}
    check("start")
    counts, whole = {}, 0
    for number in range(kills):
        what = rng.choice(["guest", "guest", "tesserad", "up", "instance"])
        time.sleep(rng.random() * 0.3)
        who = rng.choice(tenants)
        if what == "guest":
            pids = sorted(pid for pid in holders(instances[who]) if pid != mains[who])
            if pids:
                os.kill(rng.choice(pids), signal.SIGKILL)
        elif what == "instance":
            if mains[who] is not None:
                os.kill(mains[who], signal.SIGKILL)
                mains[who] = None
        elif what == "tesserad":
            pid = wait_for("a tesserad", cloud.node_pid)
            os.kill(pid, signal.SIGKILL)
        else:
            cloud.up.kill()
            cloud.up.wait()
            cloud.start()
        counts[what] = counts.get(what, 0) + 1
        check(f"kill {number} ({what})")
        # A program all of whose workers were killed ends by itself, and so does one we killed: rent again is a start.
        for name in tenants:
            state = cloud.cli(name, "show", instances[name])["state"]
            if mains[name] is not None and os.path.exists(f"/proc/{mains[name]}") and state not in ("running",):
                wait_for(f"{name} to be seen running", lambda: cloud.cli(name, "show", instances[name])["state"] == "running"
                         or not os.path.exists(f"/proc/{mains[name]}"))
            if mains[name] is None or not os.path.exists(f"/proc/{mains[name]}"):
                wait_for(f"{name}'s end to be noticed", lambda: cloud.cli(name, "show", instances[name])["state"] in ("ended", "stopped", "failed"))
                wait_for(f"{name} to start again", lambda: cloud.cli(name, "start", instances[name], ok=False) is not None)
                wait_for(f"{name} to run", lambda: cloud.cli(name, "show", instances[name])["state"] == "running")
                mains[name] = wait_for(f"{name}'s program", lambda: main_pid(instances[name]))
        booked = wait_for("the node to answer", lambda: world.curl("/v1/cards"))["cards"]
        # A program whose last worker was killed may have ended just now; the next round starts it again.
        all_live = all(os.path.exists(f"/proc/{pid}") for pid in mains.values())
        whole += all_live
        if all_live and sum(c["reserved_bytes"] for c in booked) != 6 * third:
            fail(f"kill {number} ({what}): {[c['reserved_bytes'] for c in booked]} booked instead of six thirds")
    need(whole > kills // 2, f"{whole} of {kills} looks at the books found all six programs alive, and six thirds booked")
    need(True, f"{kills} kills survived ({', '.join(f'{n} {w}' for w, n in sorted(counts.items()))}): slices and ledger right after each")

    for who in tenants:
        wait_for(f"{who} to stop", lambda: cloud.cli(who, "stop", instances[who], ok=False) is not None
                 or cloud.cli(who, "show", instances[who])["state"] in ("stopped", "ended"))
    for who in tenants:
        wait_for(f"{who} to be settled", lambda: cloud.cli(who, "show", instances[who])["state"] in ("stopped", "ended", "failed"))
    need(wait_for("the cards to be empty", lambda: not witness.processes(0) and not witness.processes(1)), "witness: no process on any card")
    need(witness.used(0) == witness.used(1), "witness: no byte is left on either card beyond what an idle card shows")
    wait_for("the node's ledger to be empty", lambda: all(c["reserved_bytes"] == 0 for c in world.curl("/v1/cards")["cards"]))
    for who in tenants:
        expected = expected_micro(sql, ids[who])
        bill = cloud.cli(who, "bill")
        whole, _, rest = bill["total"].partition(".")
        if int(whole) * 10**6 + int(rest.ljust(6, "0")) != expected:
            fail(f"{who}: bill {bill['total']}, by the events it is {expected / 1e6}")
        left = sql("SELECT sum(e.amount_micro) FROM entries e JOIN accounts a ON a.id = e.account_id WHERE a.tenant_id = ?", ids[who])[0][0]
        if left != 50_000_000 - expected:
            fail(f"{who}: {left} left of {DEPOSIT} after a bill of {expected}")
    need(True, "every bill equals what SQL makes of the events, and every cent is where it belongs")
    need(not sql("SELECT id FROM holds WHERE state = 'open'"), "no money is held")
finally:
    try:
        for who, id in instances.items():
            cloud.cli(who, "release", id, ok=False)
    except BaseException:
        pass
    world.close()
