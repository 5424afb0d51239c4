"""Speaks the runner contract without an engine, and misbehaves on request: for faults that engines have rarely.

Arguments are ``FAULT@VISIT``; the fault happens when that visit has started (``ready`` as the visit: before).
A fault returns True when it has dealt with the visit itself.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

PROBE = sys.argv[-1] if "--probe" in sys.argv else None
REQUEST: dict[str, Any] = {} if PROBE else json.load(sys.stdin)
SAMPLES: dict[str, Any] = {
    "iterations": 1,
    "delays_ns": [0] * 10,
    "switches": [0] * 10,
    "canaries": {"sgemm": [[0, 1000]], "mobilenet": [[0, 2000]]},
    "open_ms": 1.0,
    "first_ms": 1.0,
    "warmup_runs": 3,
    "gate_relative_l2": 0.0,
    "timed_ms": 10.0,
    "canary_ms": 0.1,
}


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def write(content: bytes) -> bool:
    sys.stdout.buffer.write(content)
    sys.stdout.flush()
    return True


def ready(**more: Any) -> bool:
    facts: dict[str, Any] = {
        "contract": 2,
        "engine": REQUEST["engine"],
        "engine_version": "1",
        "precision": REQUEST["precision"],
        "threads": 1,
        "threads_observed": 1,
        "affinity": REQUEST["cores"],
        "confinement": ["rlimits"],
        "witness_cost_ns": 1,
        "import_ms": 1.0,
        "canary_open_ms": 1.0,
    }
    say(event="ready", **(facts | more))
    return True


def done(visit: int, **more: Any) -> bool:
    say(event="done", visit=visit, outcome="ok", **({"blocks_ns": [1_000_000] * 10} | SAMPLES | more))
    return True


def beside(**more: Any) -> dict[str, Any]:
    """The b side of a pair that is as fast as its a side."""
    side = {name: value for name, value in SAMPLES.items() if name not in ("canaries", "canary_ms")}
    return {"blocks_ns": [1_000_000] * 10, **side, "rounds": [5, 5], "threads": 1, **more}


def failed(visit: int, code: str, detail: str) -> bool:
    say(event="done", visit=visit, outcome="failed", code=code, detail=detail)
    return True


def die(words: str, number: int) -> bool:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()
    os.kill(os.getpid(), number)
    return True


def exit_with(words: str, code: int) -> bool:
    sys.stderr.write(words + "\n")
    sys.exit(code)


def hang() -> bool:
    signal.pause()
    return True


def hang_in_child() -> bool:
    if os.fork() == 0:
        signal.pause()
    os._exit(1)


def refuse_launch(code: str) -> bool:
    say(event="failed", code=code, detail="not here")
    sys.exit(3)


def flood(visit: int) -> bool:
    for _ in range(100_000):
        say(event="started", visit=visit)
    return True


def boast(visit: int) -> bool:
    say(event="started", visit=visit)
    return False


def slow_when_first(visit: int) -> bool:
    """One launch twice as slow as the others: the interval stays wide."""
    first = REQUEST["visits"][0]["visit"] == visit
    return done(visit, blocks_ns=[2_000_000 if first else 1_000_000] * 10)


def launch_number() -> int:
    """How many runners of the lease came before this one, counted in a file beside the canary's."""
    with open(os.path.join(os.path.dirname(REQUEST["canaries"]["mobilenet"]["artifact"]), ".launches"), "ab") as file:
        file.write(b"x")
        return file.tell() - 1


def unsteady(visit: int, later: str) -> bool:
    """Every launch slower than the last, so that more are asked to confirm the first three; there `later` happens."""
    number = launch_number()
    return done(visit, blocks_ns=[1_000_000 * (1 + number)] * 10) if number < 3 else bool(FAULTS[later](visit))


def noise() -> bool:
    sys.stderr.write("noise\n" * 200_000)
    sys.stderr.flush()
    return False


FAULTS: dict[str, Any] = {
    "segfault": lambda _: die("", signal.SIGSEGV),
    "bad-alloc": lambda _: die("terminate called after throwing 'std::bad_alloc'", signal.SIGABRT),
    "exit": lambda _: exit_with("no idea", 7),
    "no-space": lambda _: exit_with("OSError: [Errno 28] No space left on device: 'x'", 1),
    "hang": lambda _: hang(),
    "hang-in-child": lambda _: hang_in_child(),
    "garbage": lambda _: write(b"Segmentation fault? No, just talking.\n"),
    "binary": lambda _: write(bytes(range(256)) + b"\n"),
    "long-line": lambda _: write(b"x" * 3_000_000 + b"\n"),
    "flood": flood,
    "nan": lambda visit: done(visit, timed_ms=float("nan")),
    "negative": lambda visit: done(visit, blocks_ns=[-1] * 10),
    "lengths": lambda visit: done(visit, switches=[]),
    "stray-points": lambda visit: done(visit, canaries={"sgemm": [[0, 1000], [10, 1000], [12, 1000]]}),
    "fast-points": lambda visit: done(visit, canaries={"sgemm": [[n, 10] for n in range(11)]}),
    "points": lambda visit: done(visit, canaries={"sgemm": [[n, 1000] for n in range(11)], "mobilenet": [[0, 2000]]}),
    "twice": lambda visit: done(visit) and done(visit),
    "other-visit": lambda visit: done(visit + 1000),
    "done-float-id": lambda visit: write(b'{"event":"done","visit":%d.0,"outcome":"ok"}\n' % visit),
    "surrogate-detail": lambda visit: failed(visit, "engine_error", "half a character: \ud800, and \0"),
    "other-version": lambda _: ready(engine_version="2"),
    "huge-import-ms": lambda _: ready(import_ms=1e12),
    "huge-shares": lambda visit: done(visit, timed_ms=1e9, canary_ms=1e9, open_ms=1e9),
    "starts-no-id": lambda _: boast(99_999_999_999_999_999_999),
    "starts-truth": lambda _: boast(True),
    "starts-other": lambda visit: boast(visit + 1000),
    "refuse": lambda visit: failed(visit, "unsupported_operator", "no such operator"),
    "fuse": lambda visit: failed(visit, "fused_away", "within a0"),
    "environment": lambda visit: failed(visit, "engine_error", " ".join(sorted(os.environ))),
    "wide": slow_when_first,
    "contended": lambda visit: done(visit, switches=[1] * 10),
    "stderr": lambda _: noise(),
    "tells": lambda visit: done(visit, **({"effective_precision": "fp32"} if REQUEST.get("asks_precision") else {})),
    "tells-both": lambda visit: done(visit, effective_precision="fp32", beside=beside(effective_precision="bf16")),
    "engine-unavailable": lambda _: refuse_launch("engine_unavailable"),
}
FAULTS |= {f"then-{later}": lambda visit, later=later: unsteady(visit, later) for later in tuple(FAULTS)}


def main() -> None:
    if PROBE:
        return say(engine=PROBE, available=PROBE == "onnxruntime", version="1", precisions=["fp32"], reason="not here")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted = {visit: FAULTS[fault] for fault, _, visit in (argument.partition("@") for argument in sys.argv[1:])}
    if "ready" in wanted:
        wanted["ready"](0)
    ready()
    for visit in REQUEST["visits"]:
        sites = [site["visit"] for site in visit.get("sites", ()) if site["visit"] is not None]
        for number in sites or [visit["visit"]]:
            say(event="started", visit=number)
            fault = wanted.get(str(number)) or wanted.get("all")
            if fault is None or not fault(number):
                done(number)
    totals = {"wall_ms": 1.0, "timed_ms": 1.0, "canary_ms": 0.1, "open_ms": 1.0, "waited_ms": 350.0}
    say(event="end", **totals, peak_rss_bytes=1, first_block_unix_s=1.0)
    return None


main()
