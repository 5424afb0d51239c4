"""The contention witness against contention that really happens."""

import json
import os
import subprocess
import sys
import threading

from benchfarm_engines.task_threads import cpu_ns_by_thread, thread_ids, threads_outside
from benchfarm_engines.witness import Witness

CONTENDED = """
import json, os, subprocess, sys, time
from benchfarm_engines.witness import Witness
core = sorted(os.sched_getaffinity(0))[-1]
os.sched_setaffinity(0, {core})
rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # inherits the core
try:
    witness = Witness()
    before = witness.read()
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        pass
    after = witness.read()
finally:
    rival.kill()
    rival.wait()
print(json.dumps([after.delay_ns - before.delay_ns, after.switches - before.switches]))
"""


def test_a_rival_on_the_same_core_is_seen() -> None:
    done = subprocess.run([sys.executable, "-c", CONTENDED], capture_output=True, text=True, timeout=60)
    delay_ns, switches = json.loads(done.stdout)
    assert delay_ns > 50_000_000
    assert switches > 3


def test_threads_come_and_go() -> None:
    witness = Witness()
    release = threading.Event()
    workers = [threading.Thread(target=release.wait) for _ in range(3)]
    for worker in workers:
        worker.start()
    witness.refresh()
    assert len(witness._files) == len(thread_ids())
    release.set()
    for worker in workers:
        worker.join()
    assert witness.read().delay_ns >= 0
    witness.refresh()
    assert len(witness._files) == len(thread_ids())
    witness.close()
    assert not witness._files


def test_a_reading_costs_microseconds() -> None:
    assert 0 < Witness().cost_ns() < 1_000_000


def test_every_thread_is_bound_and_billed() -> None:
    assert threads_outside(os.sched_getaffinity(0)) == []
    assert set(threads_outside(set())) == thread_ids()
    assert cpu_ns_by_thread()[os.getpid()] > 0
