"""Where nvtop comes from: the machine's, else Debian's package unpacked into a folder of ours."""
import os
import shutil
import subprocess


def find(folder):
    """The program, or None and the reason why there is none."""
    if installed := shutil.which("nvtop"):
        return installed, ""
    program = os.path.join(folder, "usr/bin/nvtop")
    if not os.path.exists(program):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "get_nvtop.sh")
        got = subprocess.run([script, folder], capture_output=True, text=True, check=False)
        if got.returncode != 0:
            return None, ("nvtop is neither installed nor to be had from Debian's archive (contrib):\n"
                          f"{got.stdout}{got.stderr}")
    return program, ""
