"""nvtop on a terminal of its own: it draws both cards, the memory held and the process that holds it."""
import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import outside
from outside import expect


def find(folder):
    """nvtop of the machine, else the one unpacked into `folder`, else none with the reason."""
    if installed := shutil.which("nvtop"):
        return installed
    program = os.path.join(folder, "usr/bin/nvtop")
    if not os.path.exists(program):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "get_nvtop.sh")
        got = subprocess.run([script, folder], capture_output=True, text=True, check=False)
        if got.returncode != 0:
            print("SKIPPED, LOUDLY: nvtop is neither installed nor to be had from Debian's archive "
                  f"(contrib):\n{got.stdout}{got.stderr}")
            sys.exit(outside.SKIPPED)
    return program


def main():
    program = find(sys.argv[2])
    with outside.Machine(sys.argv[1], "A100-80,T4") as machine:
        guest = machine.start_guest(0, 3072)
        busy = machine.start_guest(1, 64, busy=True)
        wanted = ["A100-SXM4-80GB", "Tesla T4", "3.406Gi/80.000Gi", str(guest.pid), "3488MiB", str(busy.pid)]
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(program, [program, "-d", "5"],
                      dict(machine.environment, TERM="xterm", LANG="C.UTF-8", HOME=machine.folder))
        # Wide enough for full names, and told before nvtop draws again.
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        os.kill(pid, signal.SIGWINCH)
        screen = ""
        until = time.monotonic() + outside.PATIENCE_SECONDS
        while not all(word in screen for word in wanted) and time.monotonic() < until:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    screen += outside.plain(os.read(terminal, 65536).decode(errors="replace"))
                except OSError:
                    break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        missing = [word for word in wanted if word not in screen]
        expect(not missing, f"nvtop ({program}) does not show {missing}; it wrote:\n{screen[-4000:]}")
    print(f"PASSED nvtop ({program})")


main()
