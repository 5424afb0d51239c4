"""The agent's half: command lines and the environment of the children. Imports nothing heavy."""

import json
import sys
from typing import Final, NotRequired, TypedDict, Unpack

_ISOLATED: Final = ("-I", "-m")
"""-I: no variable, no user folder and no current folder changes what a child imports."""


class ChildLimits(TypedDict):
    """What confines a child that answers, as `launch_request.read_limits` takes it.

    readable, writable: paths that hold the artifacts and take what is made of them.
    """

    memory_bytes: int
    cpu_s: int
    readable: list[str]
    writable: list[str]
    strict: NotRequired[bool]
    uid: NotRequired[int | None]
    gid: NotRequired[int | None]


def runner_argv(python: str = sys.executable) -> list[str]:
    """Starts a runner: one launch request on stdin, JSON lines on stdout.

    With `--probe ENGINE` behind it, one JSON line that says what the engine is on this host. python: the interpreter
    of the environment in which the engine lives.
    """
    return [python, *_ISOLATED, "benchfarm_engines.runner"]


def reference_argv(**limits: Unpack[ChildLimits]) -> list[str]:
    """Starts a reference child: JSON lines {artifact, inputs, out} on stdin, one answer line each on stdout."""
    return [sys.executable, *_ISOLATED, "benchfarm_engines.reference", json.dumps(limits)]


def converting_argv(python: str = sys.executable, **limits: Unpack[ChildLimits]) -> list[str]:
    """Starts a converting child, which answers as a reference child does; see `converting`."""
    return [python, *_ISOLATED, "benchfarm_engines.converting", json.dumps(limits)]


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
