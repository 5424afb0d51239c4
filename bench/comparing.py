"""How far the verdicts of comparisons can be trusted: workloads beside themselves, and slowdowns that were planted.

python -m bench.comparing aa|planted|all [--trials N] [--workloads N] [--engine onnxruntime]

Launches of the real runner without a farm around them, in batches as an agent runs them. A slowdown is a chain of small
operators on an input of its own, beside the workload in the same graph; its length comes from what one of its operators
costs there, which is measured first: by plain visits, one of each right after the other, so that a bias which all
comparisons share would show.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import exp, log, sqrt
from pathlib import Path
from statistics import mean, median
from typing import Final, NamedTuple

import onnx
from onnx import TensorProto, helper

from bench.launching import Files, Ready, Target, launch
from bench.report import command_run, write_section
from benchfarm_core.comparing import Comparison, compare, wants_more_pairs
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.shares import Share
from benchfarm_core.workloads import AnySingle
from benchfarm_engines.launch_request import read_inputs
from benchfarm_engines.reference import compute_reference
from benchfarm_workloads.draws import draw_mixed
from benchfarm_workloads.models import model_recipe

SEED: Final = 5
PROTOCOL: Final = PROTOCOLS["compare"]
SHORTEST_US, LONGEST_US = 20.0, 30_000.0
WORKLOADS: Final = 20
BATCH: Final = 10
AA_TRIALS, PLANTED_TRIALS = 200, 100
PLANTED: Final = {3.0: 0.3, 1.0: 0.2}
"""Slowdowns in percent, with how far a chain may be from them."""
GOALS: Final = {3.0: 0.95, 1.0: 0.50}
FALSE_SHARE, INCONCLUSIVE_SHARE = 0.02, 0.05
FASTER: Final = ("a_faster", "b_faster")
INTERVAL: Final = "% (95 % interval)"
LONG_CHAIN: Final = 120
SLOPE_LAUNCHES, CHECK_LAUNCHES = 8, 40
LOOK: Final = PROTOCOLS["kernel"].model_copy(update={"visit_ms": 100, "blocks_min": 12})
"""How chains are measured: visits ten times as long, because a hundredth of a workload is looked for."""
Row = dict[str, object]


class Place(NamedTuple):
    """Where trials happen."""

    files: Files
    target: Target


class Timed(NamedTuple):
    """A workload that is ready, with about how long it takes."""

    ready: Ready
    us: float


class Pair(NamedTuple):
    """What one trial compares."""

    a: Ready
    b: Ready


class Found(NamedTuple):
    """What one trial came to."""

    pair: Pair
    answer: Comparison | FailureCode
    launches: int
    device_s: float

    @property
    def verdict(self) -> str:
        """The answer in one word."""
        return str(self.answer.verdict) if isinstance(self.answer, Comparison) else str(self.answer)


def workloads(place: Place, count: int) -> list[Timed]:
    """Workloads from 20 us to 30 ms, evenly over the logarithm, out of kernels drawn by seed and models."""
    models = [("mobilenet_v2", hw) for hw in (64, 96, 160, 224)] + [("resnet18", hw) for hw in (64, 112, 160, 224)]
    wanted: list[AnySingle] = [*draw_mixed(SEED, 120)]
    wanted += [model_recipe(name).workload({"hw": hw}) for name, hw in models]
    ready = [place.files.ready(one, place.target) for one in wanted]
    look = PROTOCOLS["kernel"]
    seen = launch(place.files, ready, place.target, look, launch_no=0, order=range(len(ready))).samples
    timed = [Timed(ready[n], min(one.blocks_ns) / one.iterations / 1e3) for n, one in seen.items()]
    left = sorted((one for one in timed if SHORTEST_US <= one.us <= LONGEST_US), key=lambda one: one.us)
    chosen: list[Timed] = []
    for step in range(count):
        at = log(SHORTEST_US) + step * (log(LONGEST_US) - log(SHORTEST_US)) / max(1, count - 1)
        nearest = min(left, key=lambda one: abs(log(one.us) - at))
        chosen.append(nearest)
        left.remove(nearest)
    return chosen


def answers(place: Place, pairs: Sequence[Pair], seed: object) -> Iterator[Found]:
    """All trials, a batch in each run of launches."""
    for begin in range(0, len(pairs), BATCH):
        batch = pairs[begin : begin + BATCH]
        launches, wall_s = _launches(place, batch, f"{seed}/{begin}")
        for pair, seen in zip(batch, launches, strict=True):
            yield Found(pair, compare(seen, PROTOCOL), len(seen), wall_s / len(batch))


def _launches(place: Place, batch: Sequence[Pair], seed: str) -> tuple[list[list[LaunchSamples]], float]:
    """The launches of every pair, and their time from starts to exits in s."""
    found: list[list[LaunchSamples]] = [[] for _ in batch]
    wall_s = 0.0
    for launch_no in range(PROTOCOL.launches_max):
        order = [number for number, seen in enumerate(found) if wants_more_pairs(seen, PROTOCOL)]
        if not order:
            break
        random.Random(f"{seed}/{launch_no}").shuffle(order)
        ready = [_paired(pair, b_first=launch_no % 2 == 1) for pair in batch]
        run = launch(place.files, ready, place.target, PROTOCOL, launch_no=launch_no, order=order)
        if run.failures:
            raise RuntimeError(f"a trial failed: {run.failures}")
        wall_s += run.wall_s
        for number, samples in run.samples.items():
            found[number].append(samples)
    return found, wall_s


def _paired(pair: Pair, *, b_first: bool) -> Ready:
    return replace(pair.a, visit={**pair.a.visit, "beside": {**pair.b.visit, "opens_first": b_first}})


def planted(base: Ready, operators: int, elements: int) -> Ready:
    """A workload with a chain of `operators` beside it, each on `elements` numbers."""
    model = onnx.load(base.visit["artifact"])
    nodes, last = model.graph.node, f"chain{operators}"
    nodes.extend(helper.make_node("Tanh", [f"chain{n}"], [f"chain{n + 1}"]) for n in range(operators))
    model.graph.input.append(helper.make_tensor_value_info("chain0", TensorProto.FLOAT, [elements]))
    model.graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, [elements]))
    fill = {"kind": "normal", "seed": 1}
    chain = {"name": "chain0", "dtype": "float32", "shape": [elements], "fill": fill}
    inputs = [*base.visit["inputs"], chain]
    path = Path(base.visit["artifact"]).with_suffix(f".{operators}x{elements}.onnx")
    path.write_bytes(model.SerializeToString())
    reference = path.with_suffix(".npz")
    compute_reference(path, read_inputs(inputs), reference)
    gates = [{**base.visit["gates"][0], "reference": str(reference)}]
    return replace(base, visit={**base.visit, "artifact": str(path), "inputs": inputs, "gates": gates})


class Cost(NamedTuple):
    """How much longer b takes than a, and the standard error of that, in percent."""

    percent: float
    error: float


class Chain(NamedTuple):
    """How a workload is slowed down: one operator works on `elements` numbers and costs `percent` of it."""

    timed: Timed
    elements: int
    percent: float

    def ready(self, length: int) -> Ready:
        """The workload with a chain of that length beside it."""
        return planted(self.timed.ready, length, self.elements)


def chains(place: Place, chosen: Sequence[Timed]) -> list[Chain]:
    """About what one operator of a chain costs beside each workload: a part of what a long chain costs."""
    elements = [min(65_536, max(64, round(2 * one.us))) for one in chosen]  # about 0.1 % of the workload each
    unknown = [Chain(one, size, 0.0) for one, size in zip(chosen, elements, strict=True)]
    costs = _costs(place, [Pair(one.timed.ready, one.ready(LONG_CHAIN)) for one in unknown], SLOPE_LAUNCHES)
    known = zip(unknown, costs, strict=True)
    return [one._replace(percent=cost.percent / LONG_CHAIN) for one, cost in known if cost.percent > 0]


def slowdowns(place: Place, known: Sequence[Chain], percent: float, off: float) -> list[Pair]:
    """Workloads beside themselves with a chain that costs `percent`; without those for which no length is near enough,
    or whose cost is not known to half of what a chain may be off.

    A chain costs a little before its first operator, so the first guess is measured and then corrected.
    """
    guesses = [max(1, round(percent / one.percent)) for one in known]
    guessed = [Pair(one.timed.ready, one.ready(length)) for one, length in zip(known, guesses, strict=True)]
    pairs: list[Pair] = []
    for one, length, cost in zip(known, guesses, _costs(place, guessed, CHECK_LAUNCHES), strict=True):
        right = max(1, length + round((percent - cost.percent) / one.percent))
        expected = cost.percent + (right - length) * one.percent
        fits = abs(expected - percent) <= off and cost.error <= off / 2
        if fits:
            pairs.append(Pair(one.timed.ready, one.ready(right)))
        said = f"{right} operators, {expected:.2f} +- {cost.error:.2f} %"
        print(f"{one.timed.ready.label}: {said}{'' if fits else ': left out'}", file=sys.stderr)
    return pairs


def _costs(place: Place, pairs: Sequence[Pair], launches: int) -> list[Cost]:
    """How much longer b takes than a when each is visited by itself, one right after the other, in every launch."""
    if not pairs:
        return []
    ready = [side for pair in pairs for side in pair]
    logs: list[list[float]] = [[] for _ in pairs]
    for launch_no in range(launches):
        numbers = list(range(len(pairs)))
        random.Random(f"{SEED}/{launch_no}").shuffle(numbers)
        order = [2 * number + (side ^ (launch_no % 2)) for number in numbers for side in (0, 1)]
        seen = launch(place.files, ready, place.target, LOOK, launch_no=launch_no, order=order).samples
        shortest = {number: min(one.blocks_ns) / one.iterations for number, one in seen.items()}
        for number in numbers:
            if {2 * number, 2 * number + 1} <= shortest.keys():
                logs[number].append(log(shortest[2 * number + 1] / shortest[2 * number]))
    return [_cost(each) for each in logs]


def _cost(logs: Sequence[float]) -> Cost:
    """The median of launches, with its standard error from the median deviation as of a normal distribution."""
    middle = median(logs)
    spread = 1.4826 * median(abs(each - middle) for each in logs)
    return Cost(100 * (exp(middle) - 1), 100 * 1.2533 * spread / sqrt(len(logs)))


def aa_rows(place: Place, chosen: Sequence[Timed], trials: int) -> list[Row]:
    """Every workload beside itself."""
    drawn = random.Random(SEED).choices(chosen, k=trials)
    return [aa_row(list(_told(answers(place, [Pair(one.ready, one.ready) for one in drawn], "aa"))))]


def aa_row(found: Sequence[Found]) -> Row:
    """Workloads beside themselves: what is called faster is false, what has no verdict is inconclusive."""
    false = sum(one.verdict in FASTER for one in found)
    unsure = sum(one.verdict not in (*FASTER, "no_difference") for one in found)
    return _row("A/A", found) | {
        f"false, {INTERVAL}": Share.of(false, len(found)).text,
        f"no verdict, {INTERVAL}": Share.of(unsure, len(found)).text,
        "goal": f"false <= {FALSE_SHARE:.0%}, inconclusive <= {INCONCLUSIVE_SHARE:.0%}",
        "met": false / len(found) <= FALSE_SHARE and unsure / len(found) <= INCONCLUSIVE_SHARE,
    }


def planted_rows(place: Place, chosen: Sequence[Timed], trials: int) -> list[Row]:
    """Slowdowns of 3 % and of 1 %, on the workloads for which a chain of the right length exists; without any, a row
    with no trials."""
    known = chains(place, chosen)
    rows: list[Row] = []
    for percent, off in PLANTED.items():
        pairs = slowdowns(place, known, percent, off)
        if not pairs:
            print(f"no chain can be told to be {percent} % of any workload on a host this loud", file=sys.stderr)
            rows.append(_no_chain_row(percent))
            continue
        drawn = [pairs[n % len(pairs)] for n in range(trials)]
        found = list(_told(answers(place, drawn, f"planted {percent}")))
        rows.append(planted_row(percent, len(pairs), found))
    return rows


def _no_chain_row(percent: float) -> Row:
    return {"planted": f"+{percent} %", "trials": 0, "workloads": 0, "goal": _found_goal(percent), "met": False}


def planted_row(percent: float, workloads: int, found: Sequence[Found]) -> Row:
    """Slowdowns of so much, planted beside so many workloads: a is the one without."""
    right = sum(one.verdict == "a_faster" for one in found)
    return _row(f"+{percent} %", found) | {
        f"found, {INTERVAL}": Share.of(right, len(found)).text,
        "workloads": workloads,
        "goal": _found_goal(percent),
        "met": right / len(found) >= GOALS[percent],
    }


def _found_goal(percent: float) -> str:
    return f"found >= {GOALS[percent]:.0%}"


def _told(found: Iterator[Found]) -> Iterator[Found]:
    for number, one in enumerate(found):
        change = f"{one.answer.change_percent:+.2f} %" if isinstance(one.answer, Comparison) else ""
        print(f"{number} {one.pair.a.label}: {one.verdict} {change} in {one.launches} launches", file=sys.stderr)
        yield one


def _row(name: str, found: Sequence[Found]) -> Row:
    changes = [one.answer.change_percent for one in found if isinstance(one.answer, Comparison)]
    names = ("no_difference", *FASTER, "inconclusive", "contended")
    counts = Counter(one.verdict for one in found)
    return {
        "planted": name,
        "trials": len(found),
        **{verdict: f"{counts[verdict] / len(found):.1%}" for verdict in names},
        "median change %": round(median(changes), 2) if changes else "",
        "launches": round(mean(one.launches for one in found), 1),
        "device s per answer": round(mean(one.device_s for one in found), 2),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and, as far as it was a full measurement, writes the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="all", choices=("aa", "planted", "all"))
    parser.add_argument("--trials", type=int, help="of each kind; fewer than all are printed only")
    parser.add_argument("--workloads", type=int, default=WORKLOADS)
    parser.add_argument("--engine", default="onnxruntime")
    given = parser.parse_args(arguments)
    whole = given.trials is None and given.workloads == WORKLOADS
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="benchfarm-comparing-") as folder:
        place = Place(Files(Path(folder)), Target(given.engine))
        chosen = workloads(place, given.workloads)
        print(", ".join(f"{one.ready.label} {one.us:.0f} us" for one in chosen), file=sys.stderr)
        if given.what in ("aa", "all"):
            rows += _told_rows(
                "beside themselves", given.engine, aa_rows(place, chosen, given.trials or AA_TRIALS), whole
            )
        if given.what in ("planted", "all"):
            planted = planted_rows(place, chosen, given.trials or PLANTED_TRIALS)
            was_tried = all(row["trials"] for row in planted)  # what could not be tried replaces no table
            rows += _told_rows("planted slowdowns", given.engine, planted, whole and was_tried)
    return 0 if all(row["met"] for row in rows) else 1


def _told_rows(kind: str, engine: str, rows: Sequence[Row], whole: bool) -> Sequence[Row]:
    """Prints rows; those of a whole measurement go to the document."""
    for row in rows:
        print(row)
    if whole:
        write_section(f"Comparisons on {engine}: {kind}", command_run(), rows)
    return rows


if __name__ == "__main__":
    sys.exit(main())
