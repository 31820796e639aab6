#!/usr/bin/env python3
"""Eight processes of one slice allocate and free at random; NVML without the shim never sees them over the cap, and nothing is
left in the ledger afterwards. `slice_memory.py BUILD OPERATIONS_IN_ALL`."""
import subprocess
import sys

from support import MIB, World, fail, need, wait_for

build, operations = sys.argv[1], int(sys.argv[2])
PROCESSES = 8
world = World(build)
try:
    world.node()
    witness = world.witness()
    cap_mib = 8 * 424 + 600  # eight contexts and not much more, so that the cap is met often
    cap = cap_mib * MIB
    churn = world.start(world.bin + "/tessera", "run", "--memory", f"{cap_mib}MiB", "--", world.program("churn"), "--processes",
                        str(PROCESSES), "--operations", str(operations // PROCESSES), "--seed", "7", log="churn.log")
    samples, highest = 0, 0
    while churn.poll() is None:
        used = sum(witness.processes().values())
        samples, highest = samples + 1, max(highest, used)
        if used > cap:
            fail(f"witness saw {used} bytes, {used - cap} over the cap")
    text = open(world.dir + "/churn.log").read()
    need(churn.returncode == 0, f"the program found its memory right: {text.strip()}")
    facts = dict(pair.split("=") for pair in text.split() if "=" in pair)
    need(int(facts["operations"]) == operations // PROCESSES * PROCESSES, f"{facts['operations']} operations by {PROCESSES} processes")
    need(int(facts["refusals"]) > 0, f"the cap was met: {facts['refusals']} refusals")
    need(samples > 20 and highest <= cap, f"witness: {samples} samples, highest {highest // MIB} of {cap // MIB} MiB, never over")
    need(highest > cap * 9 // 10, "and the slice could be used nearly to the full")
    need(sum(witness.processes().values()) == 0, "witness: nothing is left on the card")
    wait_for("the slice to be given back", lambda: not world.curl("/v1/slices")["slices"])
    need(all(c["reserved_bytes"] == 0 for c in world.curl("/v1/cards")["cards"]), "the node's ledger is zero")
finally:
    world.close()
