"""monitors.py LIBS SIMGPU NVTOP_FOLDER CAPTURES CARDS: nvidia-ml-py, gpustat, nvitop and nvtop look at one machine on
which a known load runs. Each must show the truth, which the simgpu program reads from the shared state without NVML,
and so all show the same. What they drew is kept in the folder CAPTURES."""
import json
import os
import re
import sys

import nvtop
import outside
import terminal
from outside import expect, wait_for

# What each machine is made of: index of a card -> model, MiB, MiB of one context; and who is put on which card:
# (card, MiB, busy). More than one process may sit on a card.
MACHINES = {
    "A100-80,T4": ({0: ("NVIDIA A100-SXM4-80GB", 81920, 416), 1: ("Tesla T4", 15360, 106)},
                   [(0, 3072, False), (1, 64, True)]),
    "HGX-H100-8": ({i: ("NVIDIA H100 80GB HBM3", 81558, 520) for i in range(8)},
                   [(0, 3072, False), (3, 512, True), (7, 1024, False), (7, 256, False)]),
}

# The least load a card at work shows. Work never runs out on it, but the host may be too busy to begin the next kernel.
BUSY = 80
UNITS = {"B": 1 / (1 << 20), "MiB": 1, "GiB": 1024}


class Card:
    """What somebody says of one card: memory in MiB, load in percent, MiB by pid."""

    def __init__(self, used, total, load, processes):
        self.used, self.total, self.load, self.processes = used, total, load, processes

    def __repr__(self):
        return f"{self.used} of {self.total} MiB, {self.load} %, {self.processes}"


def truth(machine, simgpu):
    """By card: MiB by pid, and the load in percent, as `simgpu ps` reads them from the state."""
    answer = machine.run([simgpu, "ps", "--state", machine.environment["SIMGPU_STATE"]])
    expect(answer.returncode == 0, f"simgpu ps: {answer.stdout}{answer.stderr}")
    cards = {}
    for line in answer.stdout.splitlines():
        if process := re.match(r"(\d+) +(\d+) +(\d+) MiB ", line):
            card, pid, mebibytes = (int(n) for n in process.groups())
            cards.setdefault(card, ({}, []))[0][pid] = mebibytes
        elif whole := re.match(r"(\d+) +all .* (\d+) %", line):
            cards.setdefault(int(whole[1]), ({}, []))[1].append(int(whole[2]))
    return {card: (processes, loads[0]) for card, (processes, loads) in cards.items()}


def keep(folder, name, text):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name + ".txt"), "w", encoding="utf-8") as file:
        file.write(text)


def by_nvidia_ml_py(captures):
    import pynvml
    pynvml.nvmlInit()
    cards, lines = {}, []
    for i in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(i)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        load = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        processes = {p.pid: p.usedGpuMemory >> 20 for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        cards[i] = Card(memory.used >> 20, memory.total >> 20, load, processes)
        lines.append(f"{i} {pynvml.nvmlDeviceGetName(handle)}: {cards[i]}, {pynvml.nvmlDeviceGetPowerUsage(handle)} mW, "
                     f"{pynvml.nvmlDeviceGetTemperature(handle, 0)} C")
    pynvml.nvmlShutdown()
    keep(captures, "nvidia-ml-py", "\n".join(lines) + "\n")
    return cards


def by_gpustat(machine, captures):
    tool = os.path.join(os.path.dirname(sys.executable), "gpustat")
    answer = machine.run([tool, "--json"])
    expect(answer.returncode == 0, f"gpustat: {answer.stderr}")
    seen = json.loads(answer.stdout)
    expect("simgpu" in seen["driver_version"], f"gpustat's driver version is {seen['driver_version']}")
    shown = machine.run([tool, "--show-pid", "--no-color"])
    keep(captures, "gpustat", shown.stdout)
    cards = {}
    for card in seen["gpus"]:
        processes = {p["pid"]: p["gpu_memory_usage"] for p in card["processes"]}
        cards[card["index"]] = Card(card["memory.used"], card["memory.total"], card["utilization.gpu"], processes)
        # What people read says the same.
        expect(f"{card['memory.used']} / {card['memory.total']} MB" in shown.stdout, shown.stdout)
    return cards


def by_nvitop(machine, captures):
    tool = os.path.join(os.path.dirname(sys.executable), "nvitop")
    answer = machine.run([tool, "--once"], COLUMNS="160", LINES="80", NO_COLOR="1", LANG="C.UTF-8")
    expect(answer.returncode == 0, f"nvitop: {answer.stderr}")
    text = outside.plain(answer.stdout)
    keep(captures, "nvitop", text)
    expect("580.95.05-simgpu" in text, f"nvitop does not show the driver's version:\n{text}")
    cards = {}
    for line in text.splitlines():
        # Two lines a card; the second has memory and load. Then one line a process.
        if row := re.search(r"([\d.]+)(B|MiB|GiB) / +([\d.]+)(MiB|GiB).*?(\d+)% +Default", line):
            used, total = (float(n) * UNITS[unit] for n, unit in ((row[1], row[2]), (row[3], row[4])))
            cards[len(cards)] = Card(used, total, int(row[5]), {})
        elif row := re.search(r"[│|] +(\d+) +(\d+) +\S+ +\S+ +([\d.]+)(MiB|GiB) ", line):
            if int(row[1]) in cards:
                cards[int(row[1])].processes[int(row[2])] = float(row[3]) * UNITS[row[4]]
    expect(cards, f"nvitop's screen is not understood:\n{text}")
    return cards


def by_nvtop(machine, program, captures, models, pids):
    """nvtop shows memory rounded to 1/1000 GiB, and processes by pid with their MiB."""
    def complete(text):
        return all(str(pid) in text for pid in pids) and len(re.findall(r"GPU\[[| ]*\d+%", text)) == len(models)
    text = terminal.watch([program, "-d", "5"], dict(machine.environment, HOME=machine.folder), complete,
                          rows=80, columns=240)
    keep(captures, "nvtop", text)
    expect(complete(text), f"nvtop ({program}) does not show all cards and {pids}:\n{text}")
    return text


def close(a, b, tolerance):
    return abs(a - b) <= tolerance


def compare(who, cards, true, models, memory_tolerance):
    expect(sorted(cards) == sorted(models), f"{who} shows the cards {sorted(cards)}, not {sorted(models)}")
    for i, card in cards.items():
        processes, load = true[i]
        told = f"{who}, card {i}: {card}; the truth: {processes}, {load} %"
        expect(close(card.used, sum(processes.values()), memory_tolerance), told)
        expect(close(card.total, models[i][1], memory_tolerance), told)
        expect(sorted(card.processes) == sorted(processes), told)
        expect(all(close(card.processes[pid], processes[pid], memory_tolerance) for pid in processes), told)
        expect(card.load == 0 if load == 0 else card.load >= BUSY, told)


def main():
    libs, simgpu, nvtop_folder, captures, cards = sys.argv[1:]
    models, load = MACHINES[cards]
    program, missing = nvtop.find(nvtop_folder)
    with outside.Machine(libs, cards) as machine:
        machine.enter()
        guests = [(card, mebibytes, busy, machine.start_guest(card, mebibytes, busy)) for card, mebibytes, busy in load]
        expected = {i: {} for i in models}
        for card, mebibytes, works, guest in guests:
            # Who works has loaded a module, which takes a granule.
            expected[card][guest.pid] = mebibytes + models[card][2] + (2 if works else 0)
        busy = {card for card, _, works, _ in guests if works}

        # First the state itself: it must say what was put there.
        def settled():
            now = truth(machine, simgpu)
            return now if all(now[card][1] >= 90 for card in busy) else None
        true = wait_for("the busy cards to be busy", settled)
        for i in models:
            expect({pid: mebibytes for pid, mebibytes in true[i][0].items()} == expected[i],
                   f"card {i} holds {true[i][0]}, not {expected[i]}")
            expect(i in busy or true[i][1] == 0, f"card {i} is {true[i][1]} % busy with nothing")

        compare("nvidia-ml-py", by_nvidia_ml_py(captures), true, models, 0)
        compare("gpustat", by_gpustat(machine, captures), true, models, 0)
        # Its figures have four digits.
        compare("nvitop", by_nvitop(machine, captures), true, models, 11)
        if program is None:
            print(f"SKIPPED, LOUDLY: {missing}")
            sys.exit(outside.SKIPPED)
        pids = [guest.pid for _, _, _, guest in guests]
        text = by_nvtop(machine, program, captures, models, pids)
        loads = [int(n) for n in re.findall(r"GPU\[[| ]*(\d+)%", text)]
        memory = re.findall(r"MEM\[[| ]*([\d.]+)Gi/([\d.]+)Gi", text)
        expect(len(memory) == len(models), f"nvtop's memory bars are not understood:\n{text}")
        for i in models:
            used, total = (float(n) * 1024 for n in memory[i])
            told = f"nvtop, card {i}: {memory[i]} GiB, {loads[i]} %; the truth: {true[i]}\n{text}"
            expect(close(used, sum(true[i][0].values()), 2) and close(total, models[i][1], 2), told)
            expect(loads[i] == 0 if true[i][1] == 0 else loads[i] >= BUSY, told)
        for card, _, _, guest in guests:
            row = next(line for line in text.splitlines() if re.search(rf"\b{guest.pid}\b", line))
            expect(f"{expected[card][guest.pid]}MiB" in row, f"nvtop's row of {guest.pid}: {row}")
            expect(re.search(rf"\b{guest.pid} +\S+ +{card} +Compute ", row), f"nvtop's row of {guest.pid}: {row}")
    print(f"PASSED monitors on {cards}; captures in {captures}")


main()
