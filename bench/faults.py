"""Planted faults: each ends in its typed outcome, takes nothing else with it, and leaves a board that measures.

python -m bench.faults [--only segfault,hang,...]

On a farm of its own with this host as its board. The agent's launches are real ones with the real engine; the process
of the runner has the fault (`bench/faulty_runner.py`) and says itself what it did, which is the column "seen by the
runner". Each fault is met by one kernel of a job, of which the others must come to their results. Right after, without
the fault, the same kernel and a small one are measured on the same board. Where a fault shall change nothing, the
kernel's normalised times with and without it are held against each other. Nothing waits for a quiet machine; what noise
left inconclusive is measured again, twice at the most. Memory that runs out is address space, which
is what the cage limits; the full disk is one of 64 KiB that is mounted for the runner alone.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench.faulty_runner import DEEDS, Plan, command
from bench.measuring import measure
from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm_core.boards import BoardView, Health
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemView
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.farm_process import FarmProcess

ENGINE = "onnxruntime"
OK: Final = "ok"
VISIT_TIMEOUT_S = 5
TRIES = 3
UNCHANGED_SHARE = 0.10
"""A time that the fault shall not touch: no farther from itself than two results of grade C may be."""
SMALL = KernelRequest(type="fc", config={"cin": 64, "cout": 32})
OTHERS = tuple(KernelRequest(type="conv-bn-act", config={"hw": 14, "cin": cin, "cout": 16, "k": 1}) for cin in (8, 24))
Row = dict[str, object]


class Fault(NamedTuple):
    """name: a key of `DEEDS`; how: what the runner's process does; expected: a failure code, or `OK`."""

    name: str
    how: str
    expected: str


FAULTS: Final = (
    Fault("segfault", "native code reads address 0 while the engine runs", FailureCode.RUNNER_DIED),
    Fault("hang", "the engine's call does not come back, and can be interrupted", FailureCode.TIMEOUT),
    Fault("native_hang", "it does not come back, and no signal but the agent's last reaches it", FailureCode.TIMEOUT),
    Fault("out_of_memory", "the engine's call takes address space without end", FailureCode.OUT_OF_MEMORY),
    Fault("engine_out_of_memory", "the engine opens models while next to nothing is left", FailureCode.OUT_OF_MEMORY),
    Fault("wrong_output", "every output is off by 1", FailureCode.WRONG_RESULT),
    Fault("garbage", "bytes that are no line on the runner's own stdout", FailureCode.RUNNER_GARBAGE),
    Fault("chatter", "native code prints a result's line on descriptor 1, where results do not go", OK),
    Fault("clock", "the wall clock is a day ahead or behind at each look of the process", OK),
    Fault("full_disk", "the launch's scratch disk has 64 KiB, and 1 MiB is written", FailureCode.DISK_FULL),
)


class Seen(NamedTuple):
    """What became of a fault: the items of the job that met it and of the one right after, the victim first in each."""

    met_by: Sequence[ItemView]
    attempts: int
    said: Sequence[str]
    after: Sequence[ItemView]
    board: BoardView


def victim(number: int) -> KernelRequest:
    """A kernel of its own for each fault: nothing that is known of one can answer for another."""
    return KernelRequest(type="conv-bn-act", config={"hw": 28, "cin": 17 + number, "cout": 16, "k": 3})


def shape_of(kernel: KernelRequest) -> tuple[int, ...]:
    """Of its input: batch, channels, height, width."""
    return (1, int(kernel.config["cin"]), int(kernel.config["hw"]), int(kernel.config["hw"]))


def meet(client: Client, fault: Fault, number: int, folder: Path, *, protocol: str, tries: int) -> Seen:
    """One fault, and what was measured behind it, each by as many jobs as `tries` at the most."""
    wanted, said = victim(number), folder / f"{fault.name}.said"
    Plan(fault.name, shape_of(wanted), str(said)).write(plan_of(folder))
    ends_soon = ProtocolRequest(name=protocol, parameters={"visit_timeout_s": VISIT_TIMEOUT_S})
    try:
        met_by = settled(client, (wanted, *OTHERS), ends_soon, tries)
    finally:
        plan_of(folder).unlink()
    after = settled(client, (wanted, SMALL), ProtocolRequest(name=protocol), tries)
    measurement_id = met_by[0].measurement_id
    return Seen(
        met_by=met_by,
        attempts=0 if measurement_id is None else client.measurement(measurement_id).attempts,
        said=said.read_text().splitlines() if said.exists() else (),
        after=after,
        board=next(client.boards()),
    )


def settled(client: Client, wanted: Sequence[KernelRequest], protocol: ProtocolRequest, tries: int) -> list[ItemView]:
    """The items of a job in which nothing is inconclusive; after a few jobs those of the last."""
    for left in reversed(range(tries)):
        items = measure(client, wanted, ENGINE, 1, protocol=protocol)
        if left == 0 or all(item.failure != FailureCode.INCONCLUSIVE for item in items):
            break
    return items


def plan_of(folder: Path) -> Path:
    """Where launches look for their fault."""
    return folder / "plan.json"


def row(fault: Fault, seen: Seen, seconds: float) -> Row:
    """A fault's line of the table."""
    hit, *others = seen.met_by
    outcome = outcome_of(hit)
    healthy = {OK} == {outcome_of(one) for one in (*others, *seen.after)}
    same_board = {one.board_id for one in (*others, *seen.after)} == {seen.board.id}
    usable = healthy and same_board and seen.board.health == Health.GOOD
    changed = changed_share(hit, seen.after[0])
    unchanged = fault.expected != OK or (changed is not None and changed <= UNCHANGED_SHARE)
    return {
        "fault": fault.name,
        "how planted": fault.how,
        "seen by the runner": told(seen.said),
        "outcome expected": fault.expected,
        "outcome seen": outcome if seen.attempts < 2 else f"{outcome} ({seen.attempts} attempts)",
        "others of the job": told([outcome_of(one) for one in others]),
        "right after on the same board": "itself {}, a small kernel {}".format(*map(grade_of, seen.after)),
        "its time moved by": "-" if changed is None else f"{changed:.1%}",
        "board": f"{seen.board.health}, {seen.board.state}",
        "seconds": round(seconds, 1),
        "met": bool(seen.said) and outcome == fault.expected and usable and unchanged,
    }


def outcome_of(item: ItemView) -> str:
    """`OK` for a result, else the failure's code."""
    return OK if item.summary is not None else item.failure or str(item.state)


def grade_of(item: ItemView) -> str:
    """Which grade a kernel got, or why it has none."""
    return str(item.summary.grade) if item.summary else outcome_of(item)


def changed_share(hit: ItemView, after: ItemView) -> float | None:
    """How far a kernel's normalised time with the fault is from that without; None where it has none with it."""
    with_it = hit.summary.normalised_ms if hit.summary else None
    without = after.summary.normalised_ms if after.summary else None
    return abs(with_it / without - 1) if with_it and without else None


def told(lines: Sequence[str]) -> str:
    """Lines, each once, with how often it was said."""
    counts = Counter(lines)
    return "; ".join(line if count == 1 else f"{line} ({count} times)" for line, count in counts.items())


def main() -> int:
    """Meets every fault, and writes the table where all of them were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(DEEDS))
    only = parser.parse_args().only.split(",")
    if unknown := set(only) - set(DEEDS):
        parser.error(f"there is no fault {min(unknown)}; there are {', '.join(DEEDS)}")
    with tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as name:
        rows = met_faults(Path(name), [fault for fault in FAULTS if fault.name in only])
    if len(rows) == len(FAULTS):
        write_section("Planted faults", command_run(), rows)
    return 0 if all(one["met"] for one in rows) else 1


def met_faults(
    folder: Path,
    faults: Sequence[Fault],
    *,
    protocol: str = "kernel",
    tries: int = TRIES,
    env: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for each fault, on one farm with more environment than the faults need. protocol: what all is measured by;
    tries: jobs at the most until nothing is inconclusive."""
    rows: list[Row] = []
    command_line = json.dumps(command(plan_of(folder)))
    own = {"BENCHFARM_AGENT_RUNNER_ARGV": command_line, "BENCHFARM_AGENT_GATE_FOREIGN_THREADS": "1000"}
    with FarmProcess(folder / "farm", env={**own, **(env or {})}) as farm, Client(farm.url, farm.admin_token) as client:
        for number, fault in enumerate(faults):
            begun = time.monotonic()
            seen = meet(client, fault, number, folder, protocol=protocol, tries=tries)
            rows.append(row(fault, seen, time.monotonic() - begun))
            print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
