"""Six phones on one agent: how soon they are listed, what one that hangs takes from the others, and a job during which
phones are pulled out and plugged in.

python -m bench.phones lab [--window-s 120]        listed and leased at once; leases per minute beside a hanging phone
python -m bench.phones alone [--kernels 100]       one phone beside `local`, with the same native runner
python -m bench.phones pulled [--kernels 100]      a job on each of five models of board, phones pulled at random

The phones are real adbd on this host's cores: nothing that is measured there is a phone's.
"""

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

from bench.chaos import fates_of
from bench.losses import Fate
from bench.phone_alone import compare_one_phone
from bench.phone_lab import CACHE, Lab, open_lab, paced_runners
from bench.report import command_run, write_section
from benchfarm_core.boards import BoardState
from benchfarm_core.errors import Conflict
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemState, JobState, JobView
from benchfarm_core.protocols import ProtocolRequest
from tests.peers.phones import Phone

Row = dict[str, object]
LISTED_S: Final = 3.0
LOSS_MAX: Final = 0.05
"""How much a hanging phone may take from the leases per minute of the others."""
IDLE_MIN: Final = 0.1
"""With less the cores themselves decide how much is done, and the comparison says nothing."""
PULLS: Final = 20
INCONCLUSIVE_SHARE_MAX: Final = 0.05
SETTLE_S: Final = 15.0
KERNELS_A_JOB: Final = 8
JOBS_WAITING: Final = 5
"""Jobs of each platform that are not done: two boards may serve one, and more must wait than they take."""
PROTOCOLS: Final = 40
LEASED_MIN: Final = 0.97
"""With less the phones waited for work as well as for their boards."""
JOB_LIMIT_S: Final = 3600.0
ENDED_S: Final = 120.0


def main() -> None:
    """Measures what was asked for, by default all three, and writes a section for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="lab, alone, pulled; all by default")
    parser.add_argument("--window-s", type=float, default=120.0, help="lab: how long leases are counted, four times")
    parser.add_argument("--kernels", type=int, default=100)
    parser.add_argument("--launches", type=int, default=5, help="alone: of each board")
    parser.add_argument("--seed", type=int, default=1, help="pulled: which phones, when")
    parser.add_argument("--print-only", action="store_true", help="leave docs/performance.md alone")
    given = parser.parse_args()
    wanted = given.kinds or list(_SECTIONS)
    if unknown := set(wanted) - set(_SECTIONS):
        parser.error(f"there is no {min(unknown)!r}; there are {', '.join(_SECTIONS)}")
    missed = [kind for kind in wanted if not _measured(kind, given)]
    if missed:
        raise SystemExit(f"a goal was missed: {', '.join(missed)}")


_SECTIONS: Final = {
    "lab": "Six phones on one agent, one of them hanging",
    "alone": "A phone beside `local`",
    "pulled": "Phones pulled out during a job",
}


def _measured(kind: str, given: argparse.Namespace) -> bool:
    """Whether every goal of one kind was met."""
    with tempfile.TemporaryDirectory(prefix="benchfarm-phones-") as folder:
        if kind == "lab":
            rows = hanging(Path(folder), given.window_s)
        elif kind == "alone":
            rows = compare_one_phone(Path(folder), given.kernels, given.launches)
        else:
            rows = pulled(Path(folder), given.kernels, given.seed)
    for row in rows:
        print(row, flush=True)
    if not given.print_only:
        write_section(_SECTIONS[kind], command_run(), rows)
    return all(row["met"] for row in rows)


def hanging(folder: Path, window_s: float) -> list[Row]:
    """Leases per minute of five phones while the sixth is unplugged, beside the same one hanging, twice, and unplugged.

    One that works would take processor time from the others, which one that hangs gives back to them. In this order
    whatever drifts during the run is on both sides.
    """
    with open_lab(folder, runners=paced_runners(folder), local=False) as lab:
        stop = threading.Event()
        feeders = [threading.Thread(target=_feed, args=(lab, key, stop)) for key in lab.platforms()]
        for feeder in feeders:
            feeder.start()
        try:
            leased_s = lab.wait_until(lambda: _leased(lab) == len(lab.phones), "all phones are leased at once")
            without, beside = _windows(lab, window_s)
        finally:
            stop.set()
            for feeder in feeders:
                feeder.join()
    listed: Row = {"what": "six phones listed after the agent's start, s", "value": lab.listed_s}
    together: Row = {"what": "six phones leased at once after the first job, s", "value": leased_s, "met": True}
    rows = [listed | {"goal": f"<= {LISTED_S:g}", "met": lab.listed_s <= LISTED_S}, together]
    rows += [
        _compared("leases", [one.leases for one in without], [one.leases for one in beside]),
        _compared("results", [one.results for one in without], [one.results for one in beside]),
        _least("time in which five phones were leased", [one.leased for one in (*without, *beside)], LEASED_MIN),
    ]
    return [*rows, _least("idle time of the cores", [one.idle for one in (*without, *beside)], IDLE_MIN)]


def _windows(lab: Lab, window_s: float) -> tuple[list["Window"], list["Window"]]:
    """Two windows with the first phone unplugged, the first and the last, and two with it hanging."""
    victim, *others = lab.phones
    victim.relay.unplug()
    time.sleep(SETTLE_S)
    without = [_per_minute(lab, others, window_s)]
    victim.relay.plug()
    lab.wait_until(lambda: _leased(lab) == len(lab.phones), "the sixth phone is leased again")
    victim.relay.hang()
    time.sleep(SETTLE_S)
    beside = [_per_minute(lab, others, window_s) for _ in range(2)]
    victim.relay.unplug()
    victim.relay.flow()
    time.sleep(SETTLE_S)
    return [*without, _per_minute(lab, others, window_s)], beside


def _compared(what: str, without: Sequence[float], beside: Sequence[float]) -> Row:
    share = mean(beside) / mean(without) - 1 if any(without) else -1.0
    each = [" and ".join(f"{one:.1f}" for one in ones) for ones in (without, beside)]
    row: Row = {"what": f"{what} per minute of five phones", "value": f"{each[0]}, beside a hanging one {each[1]}"}
    return row | {"goal": f">= -{LOSS_MAX:.0%}", "change": f"{share:+.1%}", "met": share >= -LOSS_MAX}


def _least(what: str, shares: Sequence[float], goal: float) -> Row:
    """Shares of the windows: without, without, beside, beside."""
    each = [" and ".join(f"{one:.0%}" for one in ones) for ones in (shares[:2], shares[2:])]
    value = f"{each[0]}, beside a hanging one {each[1]}"
    return {"what": what, "value": value, "goal": f">= {goal:.0%}", "met": min(shares) >= goal}


def _feed(lab: Lab, platform: str, stop: threading.Event) -> None:
    """Keeps work waiting for every phone of one platform: the same few kernels by another protocol each time, so that
    files are made once and a lease is one job.

    Each platform by itself: a job for several would end with the slowest, and boards that share one would run dry.
    """
    open_jobs: list[JobView] = []
    number = 0
    while not stop.is_set():
        open_jobs = [one for one in open_jobs if lab.client.job(one.id).state not in _ENDED]
        while len(open_jobs) < JOBS_WAITING:
            number += 1
            protocol = ProtocolRequest(name="quick", parameters={"visit_ms": 10 + number % PROTOCOLS})
            open_jobs.append(lab.submit(seed=1, kernels=KERNELS_A_JOB, protocol=protocol, platforms=[platform]))
        stop.wait(1.0)
    for one in open_jobs:
        with contextlib.suppress(Conflict):  # it has ended meanwhile
            lab.client.cancel(one.id)


_ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED})


def _leased(lab: Lab) -> int:
    return sum(1 for _ in lab.client.boards(state=BoardState.LEASED))


class Window(NamedTuple):
    """What was done per minute, the leased share of the phones' time, the idle share of all cores'."""

    leases: float
    results: float
    leased: float
    idle: float


def _per_minute(lab: Lab, phones: Sequence[Phone], window_s: float) -> Window:
    begun_unix_s, before = time.time(), _core_ticks()
    time.sleep(window_s)
    ended_unix_s, after = time.time(), _core_ticks()
    serials = [phone.serial for phone in phones]
    leases, results = lab.done(serials, begun_unix_s, ended_unix_s)
    lasted_s = ended_unix_s - begun_unix_s
    leased = lab.leased_s(serials, begun_unix_s, ended_unix_s) / (len(phones) * lasted_s)
    idle = (after[0] - before[0]) / (after[1] - before[1])
    return Window(60 * leases / lasted_s, 60 * results / lasted_s, leased, idle)


def _core_ticks() -> tuple[int, int]:
    """Idle and all time of all cores since the host's start, in ticks."""
    user, nice, system, idle, waiting, *others = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return idle + waiting, user + nice + system + idle + waiting + sum(others)


@dataclass
class Pulls:
    """Which phone was pulled out how often, and how often during a lease of its own."""

    counts: Counter[str] = field(default_factory=Counter)
    in_lease: int = 0


def pulled(folder: Path, kernels: int, seed: int) -> list[Row]:
    """A job of `kernels` on every model of phone and on this machine, while phones go and come."""
    pulls = Pulls()
    with open_lab(folder, runners=CACHE, local=True) as lab:
        lab.wait_until(lambda: len(lab.platforms()) == len({*_models(lab)}), "a platform for each model")
        began_s = time.monotonic()
        job = lab.submit(seed=seed, kernels=kernels, protocol=ProtocolRequest(name="quick"))
        ended = threading.Event()
        puller = threading.Thread(target=_pull, args=(lab, random.Random(seed), pulls, ended))
        puller.start()
        try:
            job = lab.client.wait(job.id, timeout_s=JOB_LIMIT_S)
        finally:
            ended.set()
            puller.join()
        took_s = time.monotonic() - began_s
        fates = fates_of(lab.farm, lab.client, job)
        return _judged(lab, job, fates, pulls, took_s)


def _models(lab: Lab) -> list[str]:
    return [board.board_model for board in lab.client.boards() if board.state is not BoardState.OFFLINE]


def _pull(lab: Lab, chance: random.Random, pulls: Pulls, ended: threading.Event) -> None:
    """Pulls a phone out and plugs it in again, until it was done so often or the job has ended."""
    for _ in range(PULLS):
        if ended.wait(chance.uniform(0.3, 1.5)):
            return
        phone = chance.choice(list(lab.phones))
        leased = {board.serial for board in lab.client.boards(state=BoardState.LEASED)}
        phone.relay.unplug()
        pulls.counts[phone.serial] += 1
        pulls.in_lease += phone.serial in leased
        ended.wait(chance.uniform(0.3, 1.2))
        phone.relay.plug()


def _judged(lab: Lab, job: JobView, fates: Sequence[Fate], pulls: Pulls, took_s: float) -> list[Row]:
    inconclusive = [fate for fate in fates if fate.failure == FailureCode.INCONCLUSIVE]
    on_phones = {one.id for one in lab.client.platforms(engine=["ncnn"]) if one.key.startswith("shared-")}
    lost = [fate for fate in fates if fate not in inconclusive and not is_kept(fate)]
    for fate in lost:
        print("LOST:", fate)
    leaked, changed = leaked_after(lab), changed_after(lab)
    row: Row = {
        "items": len(fates),
        "job": job.state.value,
        "took s": round(took_s),
        "pulled": f"{pulls.counts.total()}, {pulls.in_lease} of them leased",
        "one accepted result": sum(map(is_kept, fates)),
        "inconclusive": len(inconclusive),
        "on phones": sum(fate.item[1] in on_phones for fate in inconclusive),
        "lost": len(lost),
        "leases leaked": leaked,
        "phones left changed": len(changed),
    }
    met = not lost and not leaked and not changed and pulls.counts.total() == PULLS
    few = len(inconclusive) <= INCONCLUSIVE_SHARE_MAX * len(fates)
    return [row | {"met": met and few and len(fates) == len({fate.item for fate in fates})}]


def is_kept(fate: Fate) -> bool:
    """Whether an item has a result, and exactly one was accepted for it."""
    return fate.state is ItemState.SUCCEEDED and fate.has_result and fate.delivered.count("ok") == 1


def leaked_after(lab: Lab) -> int:
    """Leases of the run that nobody but the farm's sweep ended, or that are open beyond the deadline which they had
    when the job ended: nothing is left to do in them, so no agent has a reason to renew one."""
    due = lab.open_leases()  # at once: later the sweep has ended what was leaked
    with contextlib.suppress(TimeoutError):
        lab.wait_until(lambda: not due.keys() & lab.open_leases().keys(), "", max(due.values(), default=0.0))
    leaked = (due.keys() & lab.open_leases().keys()) | lab.outlived_leases()
    if leaked:
        print("LEAKED:", {lease: due.get(lease, "ended by its deadline") for lease in sorted(leaked)})
    return len(leaked)


def changed_after(lab: Lab) -> dict[str, dict[str, str]]:
    """What is set otherwise on phones than before, once every board had the time to be put back."""
    with contextlib.suppress(TimeoutError):
        lab.wait_until(lambda: not lab.changed(), "", ENDED_S)
    if changed := lab.changed():
        print("CHANGED:", changed)
    return changed


if __name__ == "__main__":
    main()
