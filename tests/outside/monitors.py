"""gpustat and nvitop against simgpu: both show the card, its memory and the process that holds it."""
import json
import os
import sys

import outside
from outside import expect

HELD = 3072 + 416  # what the guest asks for plus the A100 profile's context, in MiB


def gpustat(machine, tool, guest):
    answer = machine.run([tool, "--json"])
    expect(answer.returncode == 0, f"gpustat: {answer.stderr}")
    seen = json.loads(answer.stdout)
    expect("simgpu" in seen["driver_version"], f"gpustat's driver version is {seen['driver_version']}")
    card = seen["gpus"][0]
    expect(len(seen["gpus"]) == 2 and card["name"] == "NVIDIA A100-SXM4-80GB", f"gpustat sees {seen['gpus']}")
    expect(card["memory.used"] == HELD and card["memory.total"] == 81920, f"gpustat's memory: {card}")
    processes = [(p["pid"], p["gpu_memory_usage"]) for p in card["processes"]]
    expect(processes == [(guest.pid, HELD)], f"gpustat's processes: {processes}")
    text = machine.run([tool, "--show-pid", "--no-color"])
    expect(f"{HELD} / 81920 MB" in text.stdout and f"/{guest.pid}(" in text.stdout, text.stdout + text.stderr)


def nvitop(machine, tool, guest):
    answer = machine.run([tool, "--once"],
                         COLUMNS="120", LINES="60", NO_COLOR="1", LANG="C.UTF-8")
    expect(answer.returncode == 0, f"nvitop: {answer.stderr}")
    text = outside.plain(answer.stdout)
    for wanted in ("Driver Version: 580.95.05-simgpu", "A100-SXM4-80GB", f"{HELD}MiB", str(guest.pid)):
        expect(wanted in text, f"nvitop does not show {wanted!r}:\n{text}")


def main():
    tools = os.path.dirname(sys.executable)
    with outside.Machine(sys.argv[2], "A100-80,T4") as machine:
        guest = machine.start_guest(0, 3072)
        {"gpustat": gpustat, "nvitop": nvitop}[sys.argv[1]](machine, os.path.join(tools, sys.argv[1]), guest)
    print(f"PASSED {sys.argv[1]}")


main()
