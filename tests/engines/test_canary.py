"""Canary runs beside real rivals: what is kept ran undisturbed."""

import json
import subprocess
import sys
import time

from benchfarm_engines.canary import Canaries, CanarySamples
from benchfarm_engines.witness import Witness

CONTENDED = """
import json, os, subprocess, sys, time
from benchfarm_engines.canary import Canaries
from benchfarm_engines.witness import Witness
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
def long():
    end = time.thread_time_ns() + 30_000_000  # longer than any slice of a core that is shared
    while time.thread_time_ns() < end:
        pass
rivals = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]  # inherit the core
try:
    canaries, samples = Canaries({"sgemm": long}, Witness()), {}
    canaries.sample(samples, 5)
finally:
    for rival in rivals:
        rival.kill()
        rival.wait()
print(json.dumps([samples, canaries.spent_ns]))
"""


def test_runs_that_stay_disturbed_are_dropped_to_the_last() -> None:
    done = subprocess.run([sys.executable, "-c", CONTENDED], capture_output=True, text=True, timeout=60)
    samples, spent_ns = json.loads(done.stdout)
    assert samples == {"sgemm": []}
    assert spent_ns > 10 * 30_000_000, "three runs with three tries each, and one untimed"


def test_undisturbed_runs_are_kept_with_their_place() -> None:
    canaries = Canaries({"sgemm": lambda: sum(range(100)), "mobilenet": lambda: None}, Witness())
    end = time.monotonic() + 10
    samples: CanarySamples = {}
    while time.monotonic() < end and not all(len(samples.get(name, ())) == 3 for name in ("sgemm", "mobilenet")):
        samples = {}
        canaries.sample(samples, 7)
    assert [[place for place, _ in runs] for runs in samples.values()] == [[7] * 3] * 2
    assert all(time_ns > 0 for runs in samples.values() for _, time_ns in runs)
