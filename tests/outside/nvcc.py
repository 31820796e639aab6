"""nvcc.py LIB_DIR CACHE_DIR SOURCE shared|static|nvidia [--cards=NAMES] [--fails=ARGUMENT:ERROR] [nvcc options]:
builds a CUDA program and runs it on simgpu.

shared: against our own libcudart; it must do what its source says. static: with NVIDIA's runtime linked in; it must
stop with one line that names the reason and the fix. nvidia: built as shared, but NVIDIA's libcudart is found first:
the same.

A source says how it is built and run in lines of their own:
  //! options: OPTIONS        nvcc's; without an architecture, PTX for sm_75
  //! cards: NAMES            the machine's cards
  //! seeds: NUMBERS          run once with each in SIMGPU_SEED; 0 stands for none
  //! prints: LINE            must be on stdout; the last line begins with PASSED in any case
  //! complains: LINE         must be on stderr, once
  //! complains-about: REGEX  may be on stderr; nothing else may
  //! fails: ARGUMENT ERROR [REGEX]  run with that argument instead: exit code 1, the error's name on stdout, and a
                              line on stderr that matches the expression
What was built is kept in CACHE_DIR under the hash of everything that went into it."""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile

import outside
from outside import expect


def toolkit():
    """nvcc, its version, its home, and the folders with NVIDIA's runtime libraries: a CUDA 13 toolkit in PATH, else the
    venv's."""
    candidates = [shutil.which("nvcc"), os.path.join(sysconfig.get_paths()["purelib"], "nvidia/cu13/bin/nvcc")]
    for nvcc in candidates:
        if nvcc is None or not os.path.exists(nvcc):
            continue
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
        if re.search(r"release 13\.", version):
            home = os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))
            return nvcc, version, home, [d for d in (os.path.join(home, s) for s in ("lib64", "lib")) if os.path.isdir(d)]
    outside.fail(f"no nvcc of CUDA 13 among {candidates}; packages/pip.txt brings one")


def directives(source):
    found = {}
    with open(source, encoding="utf-8") as file:
        for line in file:
            if line.startswith("//! "):
                key, _, value = line[4:].rstrip("\n").partition(": ")
                expect(key in ("options", "cards", "seeds", "prints", "complains", "complains-about", "fails"),
                       f"{source}: unknown //! {key}")
                found.setdefault(key, []).append(value)
    return found


def build(cache, source, runtime, options, lib_dir):
    """The program, built now or before."""
    nvcc, version, home, nvidia_dirs = toolkit()
    here = os.path.dirname(os.path.abspath(__file__))
    if not any(option.startswith(("-arch", "-gencode")) for option in options):
        options = [*options, "-gencode", "arch=compute_75,code=compute_75"]
    kind = "static" if runtime == "static" else "shared"
    texts = [version, kind, " ".join(options)]
    for path in (source, os.path.join(here, "check.h")):
        with open(path, encoding="utf-8") as file:
            texts.append(file.read())
    name = os.path.splitext(os.path.basename(source))[0]
    way = hashlib.sha256("\0".join(texts[1:3]).encode()).hexdigest()[:8]
    program = os.path.join(cache, f"{name}-{way}-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:16]}")
    if os.path.exists(program):
        return program, nvidia_dirs
    os.makedirs(cache, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        built_against = ["-cudart", "static"] if kind == "static" else ["-cudart", "shared", "-L" + lib_dir]
        cccl = os.path.join(home, "include/cccl")
        command = [nvcc, "-O2", "-I" + here, *(["-I" + cccl] if os.path.isdir(cccl) else []), *options, *built_against,
                   *("-L" + d for d in nvidia_dirs), "-o", os.path.join(work, "program"), source]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        expect(built.returncode == 0, f"{' '.join(command)}\n{built.stdout}{built.stderr}")
        for old in os.listdir(cache):
            if old.startswith(f"{name}-{way}-"):
                os.unlink(os.path.join(cache, old))
        os.rename(os.path.join(work, "program"), program)
    return program, nvidia_dirs


def run_as_told(machine, program, told):
    for seed in " ".join(told.get("seeds", ["0"])).split():
        ran = machine.run([program], **({} if seed == "0" else {"SIMGPU_SEED": seed}))
        said = ran.stdout.splitlines()
        complaints = ran.stderr.splitlines()
        report = f"seed {seed}, exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"
        expect(ran.returncode == 0 and said and said[-1].startswith("PASSED"), report)
        for line in told.get("prints", []):
            expect(said.count(line) == 1, f"\"{line}\" is not on stdout once: {report}")
        for line in told.get("complains", []):
            expect(complaints.count(line) == 1, f"\"{line}\" is not on stderr once: {report}")
            complaints.remove(line)
        allowed = told.get("complains-about", [])
        unexpected = [line for line in complaints if not any(re.fullmatch(regex, line) for regex in allowed)]
        expect(not unexpected, f"unexpected on stderr: {unexpected}\n{report}")


def fail_as_told(machine, program, told):
    for line in told:
        argument, error, *regex = line.split(" ", 2)
        ran = machine.run([program, argument])
        report = f"{argument}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"
        expect(ran.returncode == 1 and ran.stdout == error + "\n", f"expected 1 and {error} for {report}")
        expect(not regex or any(re.fullmatch(regex[0], line) for line in ran.stderr.splitlines()),
               f"no line like {regex} for {report}")


def stop_with_reason(machine, program, runtime, nvidia_dirs):
    path = ":".join([*nvidia_dirs, machine.lib_dir]) if runtime == "nvidia" else machine.lib_dir
    # Even a program told to be quiet must say why it stops.
    ran = machine.run([program], LD_LIBRARY_PATH=path, SIMGPU_QUIET="1")
    lines = ran.stderr.splitlines()
    expect(ran.returncode == 1 and ran.stdout == "" and len(lines) == 1,
           f"exit code {ran.returncode}, expected 1 and one line on stderr\n{ran.stdout}{ran.stderr}")
    reason = "linked in (static cudart)" if runtime == "static" else "loaded NVIDIA's CUDA runtime"
    expect(lines[0].startswith("simgpu: ") and reason in lines[0] and "-cudart shared" in lines[0] and
           "libcudart.so.13" in lines[0], f"the line does not name reason and fix: {lines[0]}")


def main():
    lib_dir, cache, source, runtime, *options = sys.argv[1:]
    told = directives(source)
    cards = told.get("cards", ["A100-80,T4"])[-1]
    fails = told.get("fails", [])
    for option in [o for o in options if o.startswith(("--cards=", "--fails="))]:
        options.remove(option)
        if option.startswith("--cards="):
            cards = option[len("--cards="):]
        else:
            fails = [option[len("--fails="):].replace(":", " ")]
    options = " ".join(told.get("options", [])).split() + options
    program, nvidia_dirs = build(cache, source, runtime, options, lib_dir)
    with outside.Machine(lib_dir, cards) as machine:
        if runtime != "shared":
            stop_with_reason(machine, program, runtime, nvidia_dirs)
        elif fails:
            fail_as_told(machine, program, fails)
        else:
            run_as_told(machine, program, told)
    print(f"PASSED {os.path.basename(source)} {runtime}")


main()
