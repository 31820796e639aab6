"""nvcc.py LIB_DIR SOURCE shared|static|nvidia [nvcc options]: builds a CUDA program and runs it on simgpu.

shared: against our own libcudart; it must pass. static: with NVIDIA's runtime linked in; it must stop with one
line that names the reason and the fix. nvidia: built as shared, but NVIDIA's libcudart is found first: the same."""
import os
import re
import shutil
import subprocess
import sys
import sysconfig

import outside
from outside import expect


def toolkit():
    """nvcc and the folders with NVIDIA's runtime libraries: a CUDA 13 toolkit in PATH, else the venv's."""
    candidates = [shutil.which("nvcc"), os.path.join(sysconfig.get_paths()["purelib"], "nvidia/cu13/bin/nvcc")]
    for nvcc in candidates:
        if nvcc is None or not os.path.exists(nvcc):
            continue
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
        if re.search(r"release 13\.", version):
            home = os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))
            return nvcc, [d for d in (os.path.join(home, s) for s in ("lib64", "lib")) if os.path.isdir(d)]
    outside.fail(f"no nvcc of CUDA 13 among {candidates}; packages/pip.txt brings one")


def main():
    lib_dir, source, runtime, *options = sys.argv[1:]
    nvcc, nvidia_dirs = toolkit()
    with outside.Machine(lib_dir, "A100-80,T4") as machine:
        program = os.path.join(machine.folder, "program")
        built_against = ["-cudart", "static"] if runtime == "static" else ["-cudart", "shared", "-L" + lib_dir]
        command = [nvcc, "-O2", *options, *built_against, *("-L" + d for d in nvidia_dirs), "-o", program, source]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        expect(built.returncode == 0, f"{' '.join(command)}\n{built.stdout}{built.stderr}")
        if runtime == "shared":
            ran = machine.run([program])
            # simgpu names a kernel's illegal access on stderr; anything else there is a complaint.
            complaints = [line for line in ran.stderr.splitlines() if not line.startswith("simgpu: illegal ")]
            expect(ran.returncode == 0 and "PASSED" in ran.stdout and not complaints,
                   f"exit code {ran.returncode}\n{ran.stdout}{ran.stderr}")
        else:
            path = ":".join([*nvidia_dirs, lib_dir]) if runtime == "nvidia" else lib_dir
            # Even a program told to be quiet must say why it stops.
            ran = machine.run([program], LD_LIBRARY_PATH=path, SIMGPU_QUIET="1")
            lines = ran.stderr.splitlines()
            expect(ran.returncode == 1 and ran.stdout == "" and len(lines) == 1,
                   f"exit code {ran.returncode}, expected 1 and one line on stderr\n{ran.stdout}{ran.stderr}")
            reason = "linked in (static cudart)" if runtime == "static" else "loaded NVIDIA's CUDA runtime"
            expect(lines[0].startswith("simgpu: ") and reason in lines[0] and "-cudart shared" in lines[0] and
                   "libcudart.so.13" in lines[0], f"the line does not name reason and fix: {lines[0]}")
    print(f"PASSED {os.path.basename(source)} {runtime}")


main()
