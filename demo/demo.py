#!/usr/bin/env python3
"""The main job of Tessera, step by step, on two simulated A100-80 cards.

Tenants act through the `tessera` command line, as a person would. Every claim is checked by a witness that is not Tessera's
own code path: NVML without the shim (ctypes on the driver's library from this unshimmed process) and plain SQL on the database.
With --break NAME the demo spoils one thing on purpose from outside and must then fail at exactly the step that claims it.
"""
import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from fractions import Fraction

from bill_by_hand import expected_micro

GRANULE = 2 << 20
MIB = 1 << 20


class Failed(Exception):
    pass


class Demo:
    def __init__(self, build, broken, keep):
        self.build, self.broken, self.keep = build, broken, keep
        self.bin = os.path.join(build, "bin")
        # Instances run under uids of their own with private /tmp and /var/tmp: what they execute must lie elsewhere, readable.
        self.dir = tempfile.mkdtemp(prefix="tessera-demo.", dir="/opt" if os.geteuid() == 0 else "/tmp")
        os.chmod(self.dir, 0o755)
        self.programs = os.path.join(self.dir, "programs")
        os.mkdir(self.programs)
        for name in ("demo-hold", "demo-vecadd"):
            shutil.copy(os.path.join(self.bin, name), self.programs)
        self.state = "/dev/shm/" + os.path.basename(self.dir)
        self.env = dict(os.environ, SIMGPU_STATE=self.state, SIMGPU_CARDS="A100-80,A100-80",
                        LD_LIBRARY_PATH=os.path.join(build, "simgpu", "lib"), SIMGPU_QUIET="1")
        self.env.pop("LD_PRELOAD", None)
        self.step_name, self.step_number = "start", 0
        self.up = None
        self.keys, self.tenant_ids, self.instances = {}, {}, {}

    # -- telling --------------------------------------------------------------------------------------------
    def step(self, name, text):
        self.step_name, self.step_number = name, self.step_number + 1
        print(f"\n{self.step_number}. [{name}] {text}", flush=True)

    def say(self, text):
        print("   " + text, flush=True)

    def need(self, condition, text):
        if not condition:
            raise Failed(text)
        self.say("ok: " + text)

    # -- acting as a person -----------------------------------------------------------------------------------
    def cli(self, who, *args, ok=True, raw=False):
        env = dict(self.env, TESSERA_ENDPOINT=self.endpoint, TESSERA_KEY_FILE=self.keys[who])
        done = subprocess.run([os.path.join(self.bin, "tessera")] + ([] if raw else ["-o", "json"]) + list(args), env=env,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if ok and done.returncode != 0:
            raise Failed(f"tessera {' '.join(args)} failed ({done.returncode}): {done.stderr.strip()} {done.stdout.strip()}")
        return (json.loads(done.stdout) if done.stdout.strip() and not raw else done.stdout) if ok else done

    def wait(self, what, probe, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = probe()
            if value:
                return value
            if self.up.poll() is not None:
                raise Failed("tessera up ended")
            time.sleep(0.05)
        raise Failed("waited in vain for " + what)

    def instance(self, who, id):
        return self.cli(who, "show", id)

    def log(self, who, id):
        return self.cli(who, "logs", id, raw=True)

    def facts(self, who, id):
        """key=value pairs a demo program printed."""
        return dict(re.findall(r"(\w+)=(\S+)", self.log(who, id)))

    def rent(self, who, name, sku, *command, wait=True):
        reply = self.cli(who, "rent", sku, "--name", name, *(["--wait"] if wait else []), "--", *command)
        self.instances[name] = (who, reply["id"])
        return reply

    # -- witnesses ----------------------------------------------------------------------------------------------
    def nvml(self):
        """What the driver's own NVML says, asked from a process without the shim: [{uuid, used, processes}]."""
        code = r'''
import ctypes, json
n = ctypes.CDLL("libnvidia-ml.so.1")
assert n.nvmlInit_v2() == 0
class Memory(ctypes.Structure): _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]
class Process(ctypes.Structure): _fields_ = [("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gi", ctypes.c_uint), ("ci", ctypes.c_uint)]
count = ctypes.c_uint(); n.nvmlDeviceGetCount_v2(ctypes.byref(count)); cards = []
for i in range(count.value):
    h = ctypes.c_void_p(); assert n.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(h)) == 0
    uuid = ctypes.create_string_buffer(96); n.nvmlDeviceGetUUID(h, uuid, 96)
    m = Memory(); assert n.nvmlDeviceGetMemoryInfo(h, ctypes.byref(m)) == 0
    k = ctypes.c_uint(256); p = (Process * 256)(); assert n.nvmlDeviceGetComputeRunningProcesses_v3(h, ctypes.byref(k), p) == 0
    cards.append({"uuid": uuid.value.decode(), "total": m.total, "used": m.used, "processes": {p[j].pid: p[j].used for j in range(k.value)}})
print(json.dumps(cards))
'''
        done = subprocess.run([sys.executable, "-c", code], env=self.env, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise Failed("the NVML witness failed: " + done.stderr.strip())
        return json.loads(done.stdout)

    def sql(self, query, *parameters):
        with sqlite3.connect(os.path.join(self.dir, "data", "tessera.db"), timeout=10) as database:
            return database.execute(query, parameters).fetchall()

    # -- the job -----------------------------------------------------------------------------------------------------
    def start_up(self):
        shim = os.path.join(self.build, "lib", "libtessera.so")
        if self.broken == "shim":
            shim = os.path.join(self.build, "demo", "libnoshim.so")
        self.out = open(os.path.join(self.dir, "up.log"), "wb")
        self.up = subprocess.Popen([os.path.join(self.bin, "tessera"), "up", "--data-dir", os.path.join(self.dir, "data"),
                                    "--run-dir", os.path.join(self.dir, "run"), "--listen", "127.0.0.1:0",
                                    "--guest-library", shim],
                                   env=self.env, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out)
        path = os.path.join(self.dir, "data", "endpoint")
        self.endpoint = self.wait("tessera up to listen", lambda: os.path.exists(path) and open(path).read().strip(), 60)
        self.keys["operator"] = os.path.join(self.dir, "data", "admin.key")

    def run(self):
        self.step("up", "tessera up: one process with cloud and scheduler, one child tesserad; two cards (simulated)")
        self.start_up()
        cards = self.cli("operator", "top")["cards"]
        self.need(len(cards) == 2 and all(c["simulated"] for c in cards),
                  f"two cards found: {', '.join(c['model'] for c in cards)} (simulated)")
        print(self.cli("operator", "skus", raw=True))

        tenants = ["alice", "bob", "carol", "dave", "erin", "frank", "grace"]
        for name in tenants:
            self.keys[name] = os.path.join(self.dir, name + ".key")
            self.tenant_ids[name] = self.cli("operator", "admin", "create-tenant", name, "--key-out", self.keys[name])["id"]
            self.cli("operator", "admin", "deposit", self.tenant_ids[name], "100.00")

        self.step("thirds", "three tenants rent thirds of ONE card and compute in them")
        hold = [os.path.join(self.programs, "demo-hold"), "--seconds", "600"]
        for who in tenants[:3]:
            spoil = self.broken == "grant" and who == "alice"
            self.rent(who, who + "-1", self.third(), *(["/bin/sh", "-c", "sleep 2; exec " + " ".join(hold)] if spoil else hold))
            if spoil:
                self.spoil_grant(who, self.instances[who + "-1"][1])
        for who in tenants[:3]:
            instance = self.instance(who, self.instances[who + "-1"][1])
            self.need(len(instance["cards"]) == 1, f"{who}'s instance was placed on card {instance['cards'][0][-12:]}")
        chosen = {self.instance(w, self.instances[w + "-1"][1])["cards"][0] for w in tenants[:3]}
        self.need(len(chosen) == 1, "all three thirds are on one card")
        card = chosen.pop()

        self.step("cap", "each takes, in one allocation, what cuMemGetInfo says is free; one granule (2 MiB) more fails with error 2")
        third = self.limit_bytes()
        for who in tenants[:3]:
            facts = self.wait(f"{who}'s program to report", lambda: (lambda f: f if "granule_error" in f else None)(
                self.facts(who, self.instances[who + "-1"][1])))
            self.need(facts["total"] == str(third), f"{who}: the program sees a card of {int(facts['total']) // MIB} MiB, its slice")
            self.need(facts["alloc_bytes"] == facts["free"] and facts["alloc_error"] == "0",
                      f"{who}: free said {int(facts['free']) // MIB} MiB, one allocation of exactly that succeeded")
            self.need(facts["granule_bytes"] == str(GRANULE) and facts["granule_error"] == "2",
                      f"{who}: 2 MiB more -> CUDA error {facts['granule_error']} (out of memory)")
        witness = next(c for c in self.nvml() if c["uuid"] == card)
        self.need(len(witness["processes"]) == 3, f"witness (NVML without the shim): 3 processes on card {card[-12:]}")
        for pid, used in sorted(witness["processes"].items()):
            self.need(used <= third, f"witness: process {pid} holds {used // MIB} MiB, its slice is {third // MIB} MiB")
            self.need(used > third - 2 * GRANULE, f"witness: and that is all of its slice (within one granule)")

        self.step("neighbours", "each was refused once; the memory of all three stays right (kernels check a pattern in it)")
        for who in tenants[:3]:
            def checked(who=who):
                text = self.log(who, self.instances[who + "-1"][1])
                return re.findall(r"rounds=(\d+) wrong=(\d+)", text)[-1:] or None
            first = self.wait(f"{who}'s pattern checks", checked)
            later = self.wait(f"{who}'s next pattern check", lambda: (lambda c: c if c and int(c[0][0]) > int(first[0][0]) else None)(checked()))
            self.need(later[0][1] == "0", f"{who}: {later[0][0]} pattern checks in device memory, 0 errors")

        self.step("eyes", "an NVML client inside a slice sees the slice's size and one card")
        inside = r'''
import ctypes
n = ctypes.CDLL("libnvidia-ml.so.1"); n.nvmlInit_v2()
c = ctypes.c_uint(); n.nvmlDeviceGetCount_v2(ctypes.byref(c)); h = ctypes.c_void_p(); n.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(h))
class M(ctypes.Structure): _fields_ = [("t", ctypes.c_ulonglong), ("f", ctypes.c_ulonglong), ("u", ctypes.c_ulonglong)]
m = M(); n.nvmlDeviceGetMemoryInfo(h, ctypes.byref(m))
class P(ctypes.Structure): _fields_ = [("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gi", ctypes.c_uint), ("ci", ctypes.c_uint)]
k = ctypes.c_uint(64); p = (P * 64)(); n.nvmlDeviceGetComputeRunningProcesses_v3(h, ctypes.byref(k), p)
print("cards=%d total=%d used=%d processes=%d held=%d" % (c.value, m.t, m.u, k.value, sum(p[i].used for i in range(k.value))))
'''
        seen = self.cli("alice", "exec", self.instances["alice-1"][1], "--", "/usr/bin/python3", "-c", inside, raw=True)
        facts = dict(re.findall(r"(\w+)=(\d+)", seen))
        self.need(facts.get("cards") == "1", "inside: one card")
        self.need(facts.get("total") == str(third), f"inside: total is {int(facts.get('total', 0)) // MIB} MiB, the slice's size")
        self.need(facts.get("processes") == "1" and facts.get("held") == facts.get("used"), "inside: the slice's one process holds all that is used")
        self.need(witness["total"] > 2 * third, f"outside: the card has {witness['total'] // MIB} MiB")

        self.step("exec", "tessera exec is held by the same slice")
        done = self.cli("alice", "exec", self.instances["alice-1"][1], "--", os.path.join(self.programs, "demo-vecadd"), ok=False)
        text = done.stdout + done.stderr
        self.need(done.returncode != 0 and "error=2" in text, "alice's slice is full, so a second program in it gets CUDA error 2")
        self.cli("bob", "release", self.instances["bob-1"][1])
        self.rent("bob", "bob-1", self.third(), "/bin/sleep", "600")
        text = self.cli("bob", "exec", self.instances["bob-1"][1], "--", os.path.join(self.programs, "demo-vecadd"), raw=True)
        self.need("wrong=0 ok=1" in text, "in bob's fresh slice the same program computes right: " + text.strip().splitlines()[-1])

        self.step("queue", "six fill two cards; a seventh queues with the scarce thing named and starts when one leaves")
        for who in tenants[3:6]:
            self.rent(who, who + "-1", self.third(), "/bin/sleep", "600")
        cards = self.cli("operator", "top")["cards"]
        self.need(all(c["reserved_bytes"] == 3 * third for c in cards), "both cards are sold out: three thirds each")
        self.rent("grace", "grace-1", self.third(), "/bin/sleep", "600", wait=False)
        seventh = self.instances["grace-1"][1]
        waiting = self.wait("the seventh to queue", lambda: (lambda i: i if i["state"] == "queued" and i.get("waiting_for") else None)(
            self.instance("grace", seventh)))
        self.need("memory" in waiting["waiting_for"] or "compute" in waiting["waiting_for"],
                  "the seventh waits for " + waiting["waiting_for"])
        self.cli("dave", "release", self.instances["dave-1"][1])
        self.wait("the seventh to start", lambda: self.instance("grace", seventh)["state"] == "running")
        self.need(True, "dave left, grace's instance runs")

        self.step("restart", "tessera up and tesserad are killed and started again: running instances never noticed")
        before = self.process_of("carol-1", card)
        self.kill_up()
        self.start_up()
        self.wait("carol's instance to be adopted", lambda: self.instance("carol", self.instances["carol-1"][1])["state"] == "running")
        self.need(self.process_of("carol-1", card) == before, f"carol's process {before} still runs and still holds its memory")
        sold = {c["uuid"]: c["reserved_bytes"] for c in self.cli("operator", "top")["cards"]}
        self.need(sum(sold.values()) == 6 * third, "six slices are booked, as before")

        self.step("bill", "everybody leaves; each bill follows from the stored events, to the micro-unit")
        for name, (who, id) in list(self.instances.items()):
            self.cli(who, "stop", id, ok=False)
        for name, (who, id) in list(self.instances.items()):
            self.wait(f"{name} to be settled", lambda: self.instance(who, id)["state"] in ("stopped", "ended", "released", "failed"))
        left = sum(len(c["processes"]) for c in self.nvml())
        self.need(left == 0, "witness: no process is left on any card")
        for who in tenants:
            bill = self.cli(who, "bill")
            expected = expected_micro(self.sql, self.tenant_ids[who])
            billed = Fraction(bill["total"]) * 10**6
            self.need(billed == expected, f"{who}: bill {bill['total']} {bill['currency']}, recomputed from the events by SQL: {expected / 10**6}")
        print(self.cli("alice", "bill", raw=True))

        self.step("ledger", "the ledger sums to zero and every tenant's money is accounted for (SQL on the database)")
        if self.broken == "ledger":
            self.drop_ledger_line()
        self.check_ledger(tenants)

        self.step("down", "clean stop")
        self.up.send_signal(signal.SIGTERM)
        self.need(self.up.wait(30) == 0, "tessera up stopped cleanly")

    # -- details ------------------------------------------------------------------------------------------------------
    def third(self):
        return "a100-80.third"

    def limit_bytes(self):
        sku = next(s for s in self.cli("operator", "skus")["skus"] if s["name"] == self.third())
        return int(sku["memory_bytes"])

    def process_of(self, name, card):
        """The pid that holds this instance's memory, by the witness: the one whose cgroup names the instance."""
        id = self.instances[name][1]
        for pid in next(c for c in self.nvml() if c["uuid"] == card)["processes"]:
            if id in open(f"/proc/{pid}/cgroup").read():
                return int(pid)
        raise Failed(f"no process of {name} is on the card")

    def kill_up(self):
        """SIGKILL to `tessera up` and its tesserad, as a crash would."""
        children = subprocess.run(["pgrep", "-P", str(self.up.pid), "-x", "tesserad"], capture_output=True, text=True).stdout.split()
        self.need(len(children) == 1, "tesserad is a child of tessera up")
        os.kill(int(children[0]), signal.SIGKILL)
        self.up.kill()
        self.up.wait()
        os.unlink(os.path.join(self.dir, "data", "endpoint"))

    def spoil_grant(self, who, id):
        """Writes 1 GiB too much into the control page of one slice, behind the node's back."""
        limit_offset = 128 + 48  # ControlPage header, then ControlCard::uuid
        with open(os.path.join(self.dir, "run", "slices", id, "control"), "r+b") as page:
            page.seek(limit_offset)
            limit = int.from_bytes(page.read(8), "little")
            page.seek(limit_offset)
            page.write((limit + (1 << 30)).to_bytes(8, "little"))
        self.say(f"(spoiled: {who}'s slice is granted 1 GiB too much)")

    def drop_ledger_line(self):
        """Deletes one line of the ledger, as a faulty disk or a dishonest hand might; the table's own guard is taken off first."""
        with sqlite3.connect(os.path.join(self.dir, "data", "tessera.db"), timeout=10) as database:
            database.execute("DROP TRIGGER entries_no_delete")
            database.execute("DELETE FROM entries WHERE rowid = (SELECT max(rowid) FROM entries)")
        self.say("(spoiled: one ledger line dropped)")

    def check_ledger(self, tenants):
        lines, total = self.sql("SELECT count(*), coalesce(sum(amount_micro), 0) FROM entries")[0]
        self.need(total == 0, f"sum of all {lines} ledger lines is {total}")
        self.need(not self.sql("SELECT transfer_id FROM entries GROUP BY transfer_id HAVING sum(amount_micro) <> 0 OR count(*) <> 2"),
                  "every transfer has two lines that cancel out")
        for who in tenants:
            id = self.tenant_ids[who]
            left = self.sql("SELECT coalesce(sum(e.amount_micro), 0) FROM entries e JOIN accounts a ON a.id = e.account_id WHERE a.tenant_id = ?", id)[0][0]
            self.need(left == 100_000_000 - expected_micro(self.sql, id), f"{who}: 100.00 paid in, {left / 1e6:.6f} left")
        self.need(not self.sql("SELECT id FROM holds WHERE state = 'open'"), "no money is held any more")

    def close(self):
        for name, (who, id) in self.instances.items():
            try:
                self.cli(who, "release", id, ok=False)
            except Exception:
                pass
        if self.up and self.up.poll() is None:
            self.up.terminate()
            try:
                self.up.wait(30)
            except subprocess.TimeoutExpired:
                self.up.kill()
        if self.keep:
            print("kept " + self.dir)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
            shutil.rmtree(self.state, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description="The main job of Tessera on simulated cards, with witnesses.")
    parser.add_argument("--build", required=True, help="build folder")
    parser.add_argument("--break", dest="broken", choices=["shim", "grant", "ledger"], help="spoil one thing; the demo must fail")
    parser.add_argument("--keep", action="store_true", help="keep the demo's folder")
    arguments = parser.parse_args()
    demo = Demo(os.path.abspath(arguments.build), arguments.broken, arguments.keep)
    started = time.monotonic()
    try:
        demo.run()
        print(f"\nDemo passed: {demo.step_number} steps in {time.monotonic() - started:.0f} s, on simulated cards.")
        return 0
    except Failed as failure:
        print(f"\nFAILED at step {demo.step_number} [{demo.step_name}]: {failure}", flush=True)
        log = os.path.join(demo.dir, "up.log")
        if not demo.broken and os.path.exists(log):
            sys.stdout.write("--- the last lines of tessera up:\n" + "".join(open(log, errors="replace").readlines()[-40:]))
        return 3
    finally:
        demo.close()


if __name__ == "__main__":
    sys.exit(main())
