"""What the functional tests share: a tesserad on simgpu of their own, the CLI, and witnesses outside our shim."""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
GRANULE = 2 * MIB


class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Process(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong), ("gi", ctypes.c_uint), ("ci", ctypes.c_uint)]


class Witness:
    """NVML of the driver itself, asked from this process, which no shim is loaded into."""

    def __init__(self, library):
        self.nvml = ctypes.CDLL(library)
        assert self.nvml.nvmlInit_v2() == 0
        count = ctypes.c_uint()
        assert self.nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
        self.handles = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            assert self.nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0
            self.handles.append(handle)

    def processes(self, index=0):
        count = ctypes.c_uint(1024)
        rows = (Process * 1024)()
        assert self.nvml.nvmlDeviceGetComputeRunningProcesses_v3(self.handles[index], ctypes.byref(count), rows) == 0
        return {rows[i].pid: rows[i].used for i in range(count.value)}

    def used(self, index=0):
        memory = Memory()
        assert self.nvml.nvmlDeviceGetMemoryInfo(self.handles[index], ctypes.byref(memory)) == 0
        return memory.used

    def total(self, index=0):
        memory = Memory()
        assert self.nvml.nvmlDeviceGetMemoryInfo(self.handles[index], ctypes.byref(memory)) == 0
        return memory.total


class World:
    """A folder, a simulated machine and the programs of one build; everything is gone after close()."""

    def __init__(self, build, cards="A100-80"):
        self.build = os.path.abspath(build)
        self.bin = os.path.join(self.build, "bin")
        self.dir = tempfile.mkdtemp(prefix="tessera-test.", dir="/opt" if os.geteuid() == 0 else "/tmp")
        os.chmod(self.dir, 0o755)
        self.state = "/dev/shm/" + os.path.basename(self.dir)
        self.run_dir = os.path.join(self.dir, "run")
        self.data_dir = os.path.join(self.dir, "data")
        self.simgpu = os.path.join(self.build, "simgpu", "lib")
        self.env = dict(os.environ, SIMGPU_STATE=self.state, SIMGPU_CARDS=cards, LD_LIBRARY_PATH=self.simgpu, SIMGPU_QUIET="1",
                        TESSERA_RUN_DIR=self.run_dir)
        self.env.pop("LD_PRELOAD", None)
        os.environ["SIMGPU_STATE"], os.environ["SIMGPU_CARDS"] = self.state, cards
        self.children = []

    def program(self, name):
        """A copy where instances, which run under uids of their own, can execute it."""
        target = os.path.join(self.dir, name)
        if not os.path.exists(target):
            shutil.copy(os.path.join(self.bin, name), target)
        return target

    def witness(self):
        return Witness(os.path.join(self.simgpu, "libnvidia-ml.so.1"))

    def start(self, *argv, log="out.log", **options):
        out = open(os.path.join(self.dir, log), "ab")
        child = subprocess.Popen(list(argv), env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)
        self.children.append(child)
        return child

    def node(self):
        child = self.start(os.path.join(self.bin, "tesserad"), "--run-dir", self.run_dir, "--state-dir",
                           os.path.join(self.data_dir, "node"), "--guest-library", os.path.join(self.build, "lib", "libtessera.so"),
                           log="node.log")
        wait_for("tesserad to answer", lambda: self.curl("/healthz") is not None, alive=child)
        return child

    def curl(self, path, method="GET", body=None):
        """The node's own socket, asked with plain HTTP."""
        import http.client
        import socket

        class Unix(http.client.HTTPConnection):
            def connect(inner):
                inner.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                inner.sock.settimeout(20)
                inner.sock.connect(os.path.join(self.run_dir, "node.sock"))
        try:
            connection = Unix("localhost")
            connection.request(method, path, body=json.dumps(body) if body is not None else None,
                               headers={"content-type": "application/json"} if body is not None else {})
            reply = connection.getresponse()
            text = reply.read().decode()
            return json.loads(text) if reply.status < 400 and text[:1] in "[{" else (text if reply.status < 400 else None)
        except OSError:
            return None

    def close(self):
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.rmtree(self.state, ignore_errors=True)


def wait_for(what, probe, seconds=60, alive=None):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = probe()
        if value:
            return value
        if alive is not None and alive.poll() is not None:
            fail(f"the process ended while waiting for {what}")
        time.sleep(0.02)
    fail("waited in vain for " + what)


def fail(text):
    print("FAILED: " + text, flush=True)
    sys.exit(1)


def need(condition, text):
    if not condition:
        fail(text)
    print("ok: " + text, flush=True)
