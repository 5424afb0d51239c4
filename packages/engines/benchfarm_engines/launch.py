"""The agent's half: command lines and the environment of the children. Imports nothing heavy."""

import json
import sys
from collections.abc import Sequence
from typing import Final

_INTERPRETER: Final = (sys.executable, "-I", "-m")
"""-I: no variable, no user folder and no current folder changes what a child imports."""


def runner_argv() -> list[str]:
    """Starts a runner: one launch request on stdin, JSON lines on stdout.

    With `--probe ENGINE` behind it, one JSON line that says what the engine is on this host.
    """
    return [*_INTERPRETER, "benchfarm_engines.runner"]


def reference_argv(*, memory_bytes: int, cpu_s: int, readable: Sequence[str], writable: Sequence[str]) -> list[str]:
    """Starts a reference child: JSON lines {artifact, inputs, out} on stdin, one answer line each on stdout.

    readable, writable: folders that hold the artifacts and take the references.
    """
    limits = {
        "memory_bytes": memory_bytes,
        "cpu_s": cpu_s,
        "readable": list(readable),
        "writable": list(writable),
    }
    return [*_INTERPRETER, "benchfarm_engines.reference", json.dumps(limits)]


def launch_environment(scratch: str) -> dict[str, str]:
    """The whole environment of a child: nothing is inherited, so no token can be.

    scratch: an empty folder of its own; whatever an engine wants to leave behind lands there.
    """
    return {
        "HOME": scratch,
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": scratch,
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        # numpy's own product is the SGEMM canary, on one thread; engines are told their number when opened.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        # Some engines' tools install packages by themselves; without an environment of their own they cannot.
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_NO_INDEX": "1",
    }
