"""What predicting costs as others do it, in process, beside this farm's REST: the same architectures, in the same run.

python -m bench.asking_peers [--architectures 5000] [--print]

nn-Meter's way (MobiSys 2021) is a random forest of 320 trees for each kernel type, LitePred's (NSDI 2024) its published
network of sixteen layers; a model is one call for each of its kernel types. Beside each stands a batched variant, one
call for each kernel type of all models together, and one more that neither of them has: equal kernels once.

What is timed of them is the calling alone. Their features are made before, a row for each kernel of each model, and
they use one core or all, whichever is faster: small matrices are slower on several. REST is given genes in JSON, and
its time ends with the last byte of the answer, which has intervals, over one connection to one API process; warm are
the very architectures that the peers get, which that process never saw, cold as many others. It answers in columns, as
`Client.latency` and the adapters for searches ask it to, and in rows of JSON. The goals are of columns, which
is how a search asks; beside them stand the times of rows. The forests are fitted to made-up
latencies of the kernels that are asked. The networks are not fitted, since what they say takes no other time.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bench.asked_farm import COLUMNS, JSON, SPACE, Item, Row, Taken, asked_farm, whole_model
from bench.asking import cold_and_warm
from bench.predicting import kernel_ms
from bench.report import options, tell
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernel_lists import Entries, KernelLists
from benchfarm_predictor.kernels import Floats, Ints, Kernels
from benchfarm_predictor.networks import Layer
from benchfarm_predictor.training.absent import TORCH, why_absent
from benchfarm_predictor.training.litepred_layers import SLOPE, WIDTHS, activation_of
from benchfarm_predictor.training.measured import Measured
from benchfarm_predictor.training.trees import published_forest
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import space

Reals = npt.NDArray[np.float32]
Call = Callable[[Reals], npt.NDArray[Any]]
"""Features of kernels, float32[n, d], to what each takes: [n] in ms."""
Calls = Mapping[str, Call]
"""By kernel type."""
Model = Mapping[str, Reals]
"""The kernels of one architecture by type, a row of features for each."""

GOAL_EACH: Final = 100.0
"""Times our REST path, what a call per model takes for an architecture."""
GOAL_BATCHED: Final = 3.0
ROWS_AT_ONCE: Final = 8192
"""Of a network: its layers' outputs then fit into caches."""
REPEATS: Final = 3
FORESTS_EACH: Final = 20
NETWORKS_EACH: Final = 1_000
"""Architectures that are called one by one."""


class Ours(NamedTuple):
    """Microseconds an architecture of our REST path, warm, by the form of its answer."""

    columns_us: float
    rows_us: float


@dataclass(frozen=True, eq=False)
class AskedKernels:
    """The kernels of one type in n architectures: `rows` float32[u, d] of the different ones; of each occurrence the
    architecture (`owner`, ascending) and the place in `rows`, int64."""

    kernels: Kernels
    rows: Reals
    owner: Ints
    row: Ints

    @classmethod
    def of(cls, entries: Entries) -> "AskedKernels":
        """As they lie in kernel lists, where equal ones are counted."""
        order = np.argsort(entries.owner, kind="stable")
        owner, row = (np.repeat(each[order], entries.count[order]) for each in (entries.owner, entries.kernel))
        rows = kernel_features(entries.kernels, "published").matrix(entries.kernels).astype(np.float32)
        return cls(entries.kernels, rows, owner, row)


def asked_kernels(items: Sequence[Item]) -> dict[str, AskedKernels]:
    """The kernels of all architectures by type, as an engine has them of which no fusion is known."""
    known = NetworkKernels(FusionRules())
    genes: list[Any] = [item["genes"] for item in items]
    lists = KernelLists.of_blocks((known.parts(space(SPACE), one) for one in genes), lambda part: part.kernels)
    return {name: AskedKernels.of(entries) for name, entries in lists.by_type.items()}


def models_of(kernels: Mapping[str, AskedKernels], count: int) -> list[Model]:
    """The first architectures, each by itself."""
    found: list[dict[str, Reals]] = [{} for _ in range(count)]
    for name, asked in kernels.items():
        ends = np.searchsorted(asked.owner, np.arange(count + 1))
        for model, (start, end) in zip(found, pairwise(ends), strict=True):
            if end > start:
                model[name] = asked.rows[asked.row[start:end]]
    return list(found)


def forests(kernels: Mapping[str, AskedKernels]) -> dict[str, Call]:
    """nn-Meter's: a forest for each kernel type."""
    made: dict[str, Call] = {}
    for name, asked in kernels.items():
        made[name] = published_forest(Measured(asked.kernels, kernel_ms(asked.kernels)), 0).predict
    return made


def networks(kernels: Mapping[str, AskedKernels]) -> dict[str, Call]:
    """LitePred's: by PyTorch where it is, else the same layers by numpy."""
    call = numpy_call if why_absent(TORCH) else torch_call
    return {name: call(drawn_layers(asked.rows.shape[1])) for name, asked in kernels.items()}


def networks_name() -> str:
    """What evaluates them."""
    why = why_absent(TORCH)
    return f"LitePred's network, its layers by numpy ({why.partition(':')[0]})" if why else "LitePred's network"


def drawn_layers(inputs: int) -> tuple[Layer, ...]:
    """Layers of the published widths, their weights uniform within 1 / sqrt(inputs)."""
    chance = np.random.default_rng(0)
    layers = []
    for number, (into, out) in enumerate(pairwise((inputs, *WIDTHS)), start=1):
        bound = into**-0.5
        weights, biases = (chance.uniform(-bound, bound, shape).astype(np.float32) for shape in ((out, into), (out,)))
        layers.append(Layer(weights, biases, activation_of(number)))
    return tuple(layers)


def numpy_call(layers: Sequence[Layer]) -> Call:
    """Float32 all through, as PyTorch has it; a predictor's own numpy takes float64."""
    parts = [(np.ascontiguousarray(layer.weights.T), layer.biases, layer.activation) for layer in layers]

    def called(x: Reals) -> Reals:
        for weights, biases, activation in parts:
            x = x @ weights + biases
            if activation == "relu":
                np.maximum(x, np.float32(0), out=x)
            elif activation == "leaky_relu":
                np.maximum(x, np.float32(SLOPE) * x, out=x)
        return x[:, 0]

    return in_parts(called)


def torch_call(layers: Sequence[Layer]) -> Call:
    """PyTorch's own layers, without gradients."""
    import torch

    from benchfarm_predictor.training.litepred_network import forward

    parameters = [torch.from_numpy(part) for layer in layers for part in (layer.weights, layer.biases)]

    def called(x: Reals) -> Reals:
        with torch.inference_mode():
            said: Reals = forward(parameters, torch.from_numpy(x)).numpy()
        return said

    return in_parts(called)


def in_parts(call: Call) -> Call:
    """The same for any number of rows, some of them at once."""

    def called(x: Reals) -> npt.NDArray[Any]:
        if len(x) <= ROWS_AT_ONCE:
            return call(x)
        return np.concatenate([call(x[start : start + ROWS_AT_ONCE]) for start in range(0, len(x), ROWS_AT_ONCE)])

    return called


def one_by_one(calls: Calls, models: Sequence[Model]) -> Floats:
    """Milliseconds of each architecture: a call for each of its kernel types."""
    return np.array([sum(float(calls[name](rows).sum()) for name, rows in model.items()) for model in models])


def batched(calls: Calls, kernels: Mapping[str, AskedKernels], count: int, *, is_once: bool) -> Floats:
    """Milliseconds of all architectures: a call for each kernel type, of all kernels or of the different ones."""
    total = np.zeros(count)
    for name, asked in kernels.items():
        each = calls[name](asked.rows)[asked.row] if is_once else calls[name](asked.rows[asked.row])
        total += np.bincount(asked.owner, weights=each, minlength=count)
    return total


def timed(step: Callable[[], object]) -> Taken:
    """The best of several runs with one thread and with all, by the clock on the wall; CPU seconds of all threads."""
    found = []
    for threads in (1, None) * REPEATS:
        with threadpool_limits(threads):
            began_s, used_s = time.perf_counter(), time.process_time()
            step()
            found.append(Taken(time.perf_counter() - began_s, time.process_time() - used_s))
    return min(found)


def peer_rows(
    name: str, calls: Calls, kernels: Mapping[str, AskedKernels], count: int, each: int, ours: Ours
) -> list[Row]:
    """One way to predict, called per model and batched."""
    models = models_of(kernels, min(each, count))
    ways = [
        ("a call per model", len(models), timed(lambda: one_by_one(calls, models)), GOAL_EACH),
        ("batched", count, timed(lambda: batched(calls, kernels, count, is_once=False)), GOAL_BATCHED),
        ("batched, equal kernels once", count, timed(lambda: batched(calls, kernels, count, is_once=True)), None),
    ]
    return [peer_row(f"{name}, {way}", of, taken, ours, goal) for way, of, taken, goal in ways]


def peer_row(name: str, count: int, taken: Taken, ours: Ours, goal: float | None) -> Row:
    """How many times our REST path it takes for an architecture."""
    each_us = taken.wall_s / count * 1e6
    return {
        "what": name,
        "architectures": count,
        "us an architecture": each_us,
        "CPU, us an architecture": taken.cpu_s / count * 1e6,
        "times REST, warm, columns": each_us / ours.columns_us,
        "times REST, warm, rows": each_us / ours.rows_us,
        "goal": "" if goal is None else f">= {goal:g}",
        "met": "" if goal is None else each_us / ours.columns_us >= goal,
    }


def compared(items: Sequence[Item], rest: Mapping[str, Mapping[str, Taken]]) -> list[Row]:
    """REST as it was timed, by the form of its answers, then the peers on the same architectures."""
    count, kernels = len(items), asked_kernels(items)
    ours = Ours(*(rest[form]["warm"].wall_s / count * 1e6 for form in ("columns", "rows")))
    rows = [
        peer_row(f"REST, one process, {form}, {kind}", count, taken, ours, None)
        for form, times in rest.items()
        for kind, taken in times.items()
    ]
    rows += peer_rows("nn-Meter's forests", forests(kernels), kernels, count, FORESTS_EACH, ours)
    return rows + peer_rows(networks_name(), networks(kernels), kernels, count, NETWORKS_EACH, ours)


def main() -> int:
    """Measure, write the section; 1 where a goal is missed."""
    parser = options(__doc__)
    parser.add_argument("--architectures", type=int, default=5_000)
    given = parser.parse_args()
    with asked_farm(1) as asking:
        asking.publish(whole_model(), asking.keys)
        items = asking.fresh(given.architectures)
        rest = {
            form: cold_and_warm(asking, len(items), asking.keys, items, accept)
            for form, accept in (("columns", COLUMNS), ("rows", JSON))
        }
    return tell("Asking beside the ways of others", compared(items, rest), printed=given.print)


if __name__ == "__main__":
    sys.exit(main())
