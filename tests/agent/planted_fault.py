"""Lies in the environment of an engine and is imported at each start of its interpreter: a fault on one workload.

The runner and the engine are the real ones. What to do, and on which artifact, stands in a file beside this one.
"""

import ctypes
import importlib.machinery
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

DEED, ARTIFACT = json.loads(Path(__file__).with_name("planted_fault.json").read_text())
MODULE = "benchfarm_engines.onnxruntime_engine"
libc = ctypes.CDLL(None)


class Planted:
    """A session that does its deed in its third run, which is timed or warms up."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self) -> None:
        self._runs += 1
        if self._runs == 3:
            deed()
        self._session.run()

    def outputs(self) -> Any:
        found = self._session.outputs()
        return [output + 1 for output in found] if DEED == "wrong_output" else found


def deed() -> None:
    if DEED == "segfault":
        ctypes.string_at(0)
    elif DEED == "hang":
        time.sleep(600)  # wait: the runner ends it
    elif DEED == "native_hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        while True:
            libc.pause()
    elif DEED == "out_of_memory":
        bytearray(2**45)
    elif DEED == "bad_alloc":
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()
    elif DEED == "chatter":
        libc.puts(b'{"event":"done","visit":1,"outcome":"ok"}')
        libc.fflush(None)
    elif DEED == "garbage":
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:"):
                os.write(descriptor, b"\x00\xff no line\n")
    elif DEED == "full_disk":
        (Path(os.environ["HOME"]) / "scratch").write_bytes(bytes(2**20))


def step_the_clock() -> None:
    """Every look at the wall clock sees another day."""
    real, days = time.time, iter(range(1, 10**9))
    time.time = lambda: real() + (-1) ** next(days) * 86400.0
    time.time_ns = lambda: int(time.time() * 1e9)


def plant(module: Any) -> None:
    engine_open = module.OnnxRuntime.open

    def open_with_fault(self: Any, request: Any) -> Any:
        session = engine_open(self, request)
        return Planted(session) if request.artifact.name == ARTIFACT and not request.beside_another else session

    module.OnnxRuntime.open = open_with_fault


class Finder:
    """Plants the fault once the engine's module has been executed."""

    def find_spec(self, name: str, path: Any, _target: Any = None) -> Any:
        if name != MODULE:
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            plant(module)

        spec.loader.exec_module = exec_module
        return spec


if DEED == "clock":
    step_the_clock()
sys.meta_path.insert(0, Finder())
