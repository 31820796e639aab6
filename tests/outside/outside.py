"""What the tests with outside programs share: a simulated machine, processes on its cards, and checks.

A test is a script that ends with exit code 0, or prints why not and ends with 1. Waiting is bounded by
kPatienceSeconds, generously, because the machine may be busy.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PATIENCE_SECONDS = 120
SKIPPED = 77  # tests/outside/CMakeLists.txt tells ctest


def fail(text):
    print(f"FAILED: {text}", flush=True)
    sys.exit(1)


def expect(condition, text):
    if not condition:
        fail(text)


def wait_for(what, look):
    """The first true value of look(), or a failure that names what did not come."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > until:
            fail(f"waited {PATIENCE_SECONDS} s for {what}")
        time.sleep(0.05)


class Machine:
    """A simulated machine of its own: state folder, cards, library path. Use with `with`."""

    def __init__(self, lib_dir, cards):
        self.lib_dir = lib_dir
        # Set in a test that started over inside its machine (enter); the machine is then its parent's to remove.
        self.parents_folder = os.environ.get("SIMGPU_OUTSIDE_MACHINE")
        self.folder = self.parents_folder or tempfile.mkdtemp(prefix="simgpu-outside.")
        self.environment = {k: v for k, v in os.environ.items()
                            if k not in ("CUDA_VISIBLE_DEVICES", "LD_PRELOAD") and not k.startswith("SIMGPU_")}
        self.environment.update(SIMGPU_STATE=os.path.join(self.folder, "state"), SIMGPU_CARDS=cards,
                                LD_LIBRARY_PATH=lib_dir)
        self.processes = []

    def __enter__(self):
        for name in ("libcuda.so.1", "libnvidia-ml.so.1", "libcudart.so.13"):
            expect(os.path.exists(os.path.join(self.lib_dir, name)), f"{self.lib_dir} has no {name}: build simgpu")
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        if not self.parents_folder:
            shutil.rmtree(self.folder)

    def run(self, argv, **extra):
        """Runs a program to its end; stdout and stderr come back as text."""
        environment = dict(self.environment, **extra)
        try:
            return subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=PATIENCE_SECONDS, check=False)
        except subprocess.TimeoutExpired as late:
            fail(f"{argv} did not end in {PATIENCE_SECONDS} s; it said {late.stdout!r} and {late.stderr!r}")

    def enter(self):
        """Makes the test itself a program on the machine: libraries are found by the environment a process starts
        with, so it starts over in the machine's, and the first process only waits for it."""
        if self.parents_folder:
            return
        inside = dict(self.environment, SIMGPU_OUTSIDE_MACHINE=self.folder)
        sys.exit(subprocess.run([sys.executable, "-B"] + sys.argv, env=inside, check=False).returncode)

    def start_guest(self, card, megabytes, busy=False):
        """A process that holds memory on a card (and keeps it at work); returns once it does."""
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest.py")
        argv = [sys.executable, "-B", script, str(card), str(megabytes)] + (["busy"] if busy else [])
        process = subprocess.Popen(argv, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   text=True)
        self.processes.append(process)
        line = process.stdout.readline().strip()
        expect(line == "ready", f"the process on card {card} said {line!r} instead of \"ready\"")
        return process

    def end(self, process):
        process.send_signal(signal.SIGKILL)
        process.wait()


def plain(text):
    """Terminal output without its escape sequences."""
    import re
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>]|\][^\x07]*\x07)", " ", text)
