#!/usr/bin/env python3
"""How slices are held, from the order to the card: `tessera rent --isolation`, what the node offers and where it stands, what is refused
by name and explained by rule, and that `up` and its node, killed in the middle, know it afterwards. The witness is the MPS control
program itself. `isolation.py BUILD MPS_CLIENT`."""
import json
import os
import shutil
import signal
import subprocess
import sys

from support import World, need, wait_for

world = World(sys.argv[1])
CONTROL = "nvidia-cuda-mps-control"


class Cloud:
    """A `tessera up` with one tenant."""

    def __init__(self, world):
        self.world = world
        self.config = os.path.join(world.dir, "up.yaml")
        with open(self.config, "w") as file:
            file.write("rack: row-3.left\n")
        self.admin = os.path.join(world.data_dir, "admin.key")
        self.tenant = os.path.join(world.dir, "alice.key")
        self.start()
        made = json.loads(self.tessera("-o", "json", "admin", "create-tenant", "alice", "--key-out", self.tenant, key=self.admin).stdout)
        assert self.tessera("admin", "deposit", made["id"], "100.00", key=self.admin).returncode == 0

    def start(self):
        path = os.path.join(self.world.data_dir, "endpoint")
        if os.path.exists(path):
            os.remove(path)
        self.up = self.world.start(self.world.bin + "/tessera", "up", "--data-dir", self.world.data_dir, "--run-dir",
                                   self.world.run_dir, "--listen", "127.0.0.1:0", "--config", self.config, log="up.log")
        self.endpoint = wait_for("tessera up", lambda: os.path.exists(path) and open(path).read().strip(), alive=self.up)

    def tessera(self, *args, key=None):
        env = dict(self.world.env, TESSERA_ENDPOINT=self.endpoint, TESSERA_KEY_FILE=key or self.tenant)
        return subprocess.run([self.world.bin + "/tessera", *args], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=90)

    def rent(self, sku, isolation, *command):
        return self.tessera("-o", "json", "rent", sku, "--isolation", isolation, "--", *command)

    def show(self, instance):
        return json.loads(self.tessera("-o", "json", "show", instance).stdout)


try:
    client = os.path.join(world.dir, "client")
    shutil.copy(sys.argv[2], client)
    cloud = Cloud(world)
    node = world.curl("/v1/node")
    need(node["rack"] == "row-3.left", "the rack of the configuration file is where the node stands")
    need(node["isolations"] == ["shim", "spatial", "whole"], "the node offers what it can: in turns, spatial, whole")

    # -- what an order cannot mean ----------------------------------------------------------------------------------------
    for sku, isolation in (("a100-80.third", "turns"), ("a100-80.third", "mig"), ("a100-80.third", "whole")):
        refused = cloud.rent(sku, isolation, "true")
        need(refused.returncode != 0 and "isolation" in refused.stderr and "expected" in refused.stderr, f"{sku} {isolation} names the field")
    need(not world.curl("/v1/instances")["instances"], "and starts nothing")

    # -- spatial, from the order to the MPS server ------------------------------------------------------------------------
    made = cloud.rent("a100-80.third", "spatial", "/bin/sh", "-c", f"(echo keep 2000 100; sleep 1000) | {client}")
    need(made.returncode == 0, "a spatial order is taken: " + made.stderr)
    spatial = json.loads(made.stdout)["id"]
    wait_for("the spatial instance", lambda: cloud.show(spatial)["state"] == "running")
    need("isolation: spatial" in cloud.tessera("show", spatial).stdout, "tessera show says so")
    listed = world.curl("/v1/instances")["instances"]
    need([one["shares"][0]["isolation"] for one in listed] == ["spatial"], "the node holds it so")
    card = listed[0]["shares"][0]["card"]
    pipe = os.path.join(world.run_dir, "mps", card, "pipe")

    def clients():
        def ask(line):
            done = subprocess.run([os.path.join(world.simgpu, CONTROL)], input=line + "\n", capture_output=True, text=True, timeout=20,
                                  env=dict(world.env, CUDA_MPS_PIPE_DIRECTORY=pipe))
            return done.stdout.split() if done.returncode == 0 else []
        return [pid for server in ask("get_server_list") for pid in ask("get_client_list " + server)]

    need(len(wait_for("a client of the MPS server", clients)) == 1, "its program is a client of the card's MPS server")

    # -- a card holds one mode; who asks for another waits and is told by which rule ---------------------------------------
    shim = json.loads(cloud.rent("a100-80.third", "shim", "sleep", "1000").stdout)["id"]

    def waits_for_the_mode(when):
        shown = cloud.show(shim)
        need(shown["state"] == "queued" and "isolation" in shown["waiting_for"], f"{when}: in turns on that card waits: {shown['waiting_for']}")
        why = cloud.tessera("explain", shim)
        need(why.returncode == 0 and "isolation" in why.stdout and "shim" in why.stdout, f"{when}: tessera explain names the rule")

    waits_for_the_mode("at first")

    # -- everything is killed; what runs runs on, and what it is is known ---------------------------------------------------
    memo = listed[0]["memo"]
    need('"isolation":"spatial"' in memo and '"tenant":"t-' in memo, "the node keeps what the scheduler will have to know")
    cloud.up.send_signal(signal.SIGKILL)
    cloud.up.wait()
    cloud.start()
    wait_for("the node", lambda: world.curl("/v1/instances"))
    need(world.curl("/v1/instances")["instances"][0]["memo"] == memo, "and has kept it")
    wait_for("the instance", lambda: cloud.show(spatial)["state"] == "running")
    need(len(clients()) == 1, "the client runs on")
    waits_for_the_mode("after the restart")
    cloud.tessera("stop", spatial)
    wait_for("the one in turns", lambda: cloud.show(shim)["state"] == "running")
    need(not os.path.exists(os.path.join(world.run_dir, "mps", card, "daemon")), "the daemon went with the last spatial slice")
    cloud.tessera("stop", shim)

    # -- a card to itself -------------------------------------------------------------------------------------------------
    whole = json.loads(cloud.rent("a100-80.full", "whole", "sleep", "1000").stdout)["id"]
    wait_for("the whole card", lambda: cloud.show(whole)["state"] == "running")
    need(world.curl("/v1/node")["cards"][0]["isolation"] == "whole", "a whole card is held as one")
    cloud.tessera("stop", whole)
    world.close()

    # -- where no node offers it --------------------------------------------------------------------------------------------
    world = World(sys.argv[1])
    bare = os.path.join(world.dir, "driver")
    shutil.copytree(world.simgpu, bare, symlinks=True, ignore=shutil.ignore_patterns(CONTROL))
    world.env["LD_LIBRARY_PATH"] = bare
    cloud = Cloud(world)
    need(world.curl("/v1/node")["isolations"] == ["shim", "whole"], "without the control program a node does not offer spatial")
    refused = cloud.rent("a100-80.third", "spatial", "true")
    need(refused.returncode != 0 and "isolation: asked spatial" in refused.stderr, "and an order for it is refused by name: " + refused.stderr)
    need(not world.curl("/v1/instances")["instances"], "nothing runs")
finally:
    world.close()
print("isolation: all held")
