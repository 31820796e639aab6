#!/usr/bin/env python3
"""clang-tidy over the sources named on standard input, remembering what was clean.

A file is looked at again only when something it is made of has changed: its preprocessed text, its
compile command, the checks, or clang-tidy itself. The whole tree takes more than an hour on two
cores, one changed file seconds; so the memory is what makes `./dev lint` a command people run.
Findings are never remembered: a file with one is looked at until it is mended.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

TIDY = "clang-tidy-19"
# Flags that only g++ knows; the commands are those of a g++ build.
FOREIGN_FLAGS = {"-fno-gnu-unique", "-fno-tree-loop-distribute-patterns"}


def key_of(entry, fixed):
    """What the outcome for this file depends on, as a hash; None when it does not even preprocess."""
    words = shlex.split(entry["command"])
    words[0] = "clang++-19" if entry["file"].endswith(".cc") else "clang-19"
    at = words.index("-o")
    # -C: comments steer the tool too (NOLINT).
    text = subprocess.run(words[:at] + words[at + 2:] + ["-E", "-C", "-Wno-everything"], cwd=entry["directory"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if text.returncode != 0:
        return None
    return hashlib.sha256(fixed + " ".join(words).encode() + text.stdout).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", required=True, help="compile_commands.json of the build")
    parser.add_argument("--memory", required=True, help="folder of what was clean")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()

    memory = pathlib.Path(options.memory)
    (memory / "clean").mkdir(parents=True, exist_ok=True)
    entries = {}
    for entry in json.loads(pathlib.Path(options.commands).read_text()):
        entry["command"] = " ".join(w for w in entry["command"].split() if w not in FOREIGN_FLAGS)
        entries.setdefault(entry["file"], entry)
    (memory / "compile_commands.json").write_text(json.dumps(list(entries.values())))
    files = [os.path.abspath(line.strip()) for line in sys.stdin if line.strip()]
    # A source that no target builds would pass unseen.
    unbuilt = [file for file in files if file not in entries]
    for file in unbuilt:
        print(f"lint: {file} is built by no target of this preset, so it cannot be checked")
    files = [file for file in files if file in entries]
    version = subprocess.run([TIDY, "--version"], capture_output=True, check=True).stdout
    fixed = version + pathlib.Path(".clang-tidy").read_bytes()

    def look(file):
        began = time.monotonic()
        key = key_of(entries[file], fixed)
        if key and (memory / "clean" / key).exists():
            return file, True, True, "", 0
        run = subprocess.run([TIDY, "-p", str(memory), "--quiet", "--warnings-as-errors=*", file],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode == 0 and key:
            (memory / "clean" / key).touch()
        return file, False, run.returncode == 0, run.stdout, time.monotonic() - began

    looked, bad = 0, len(unbuilt)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for file, remembered, clean, text, seconds in pool.map(look, files):
            if not remembered:
                looked += 1
                print(f"{'ok ' if clean else 'BAD'} {seconds:6.1f} s {os.path.relpath(file)}", flush=True)
            if not clean:
                bad += 1
                print(text, flush=True)
    print(f"clang-tidy: {len(files)} files, {looked} looked at, {len(files) - looked} unchanged since clean, {bad} with findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
