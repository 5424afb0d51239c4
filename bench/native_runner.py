"""The native runner beside the Python runner: the same kernels of ncnn, the same files, launches in turn.

python -m bench.native_runner [CACHE] [--kernels 300] [--precision fp32] [--launches 5]

CACHE: the folder of `benchfarm agent runner build`, by default that of the tests; a runner that is not in it is built,
which takes minutes. Of every kernel each runner's fastest launch median counts: a neighbour makes launches slower,
never faster. A quiet machine is a condition, not a correction.
"""

import argparse
import platform
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

from bench.launching import Files, LaunchRun, Ready, Target, launch
from bench.report import command_run, write_section
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.quality import launch_median_ns
from benchfarm_core.workloads import workload_label
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.native_build import SIZE_MAX_BYTES, BuiltRunner, build_runner, find_runner
from benchfarm_engines.native_packages import CannotBuild, has_zig
from benchfarm_workloads.draws import draw_mixed

CACHE = Path(__file__).resolve().parents[1] / ".benchfarm" / "native"
SEED = 41
AGREEMENT = 0.03
LEAST_MS = (0.0, 0.1, 0.3)
"""Every run through the Python package pays some microseconds for its calls, which the native runner does not."""
Row = dict[str, object]
Times = dict[int, list[float]]


def ready_kernels(files: Files, target: Target, count: int) -> list[Ready]:
    """Kernels of all types, less those that ncnn cannot express."""
    found: list[Ready] = []
    for one in draw_mixed(SEED, count):
        try:
            found.append(files.ready(one, target))
        except EngineFailure as failure:
            print(f"left out: {workload_label(one)}: {failure}")
    return found


def launches_in_turn(
    files: Files, batch: Sequence[Ready], target: Target, native: BuiltRunner, count: int
) -> tuple[Times, Times]:
    """Launch medians in ns by position in the batch: the Python runner's and the native runner's."""
    python_ns: Times = {}
    native_ns: Times = {}
    protocol = PROTOCOLS["kernel"].model_copy(update={"quiet_wait_ms": None})  # the native one never waits
    ways = [(python_ns, None), (native_ns, [str(native.path)])]
    for launch_no in range(count):
        order = list(range(len(batch)))
        random.Random(launch_no).shuffle(order)
        for found, runner in ways if launch_no % 2 == 0 else reversed(ways):
            run = launch(files, batch, target, protocol, launch_no=launch_no, order=order, runner=runner)
            _add(found, run)
    return python_ns, native_ns


def _add(found: Times, run: LaunchRun) -> None:
    for number, samples in run.samples.items():
        middle = launch_median_ns(samples)
        if middle is not None:
            found.setdefault(number, []).append(middle)


def agreement(
    batch: Sequence[Ready], python_ns: Mapping[int, Sequence[float]], native_ns: Mapping[int, Sequence[float]]
) -> tuple[list[Row], list[tuple[float, str, float]]]:
    """Rows of the table, and every kernel: native time over Python time, its label, Python time in ms."""
    common = sorted(python_ns.keys() & native_ns.keys())
    ratios = [(min(native_ns[at]) / min(python_ns[at]), batch[at].label, min(python_ns[at]) / 1e6) for at in common]
    return [row for least_ms in LEAST_MS for row in _rows(least_ms, ratios)], sorted(ratios)


def _rows(least_ms: float, ratios: Sequence[tuple[float, str, float]]) -> list[Row]:
    kept = [(ratio, python_ms) for ratio, _, python_ms in ratios if python_ms >= least_ms]
    if len(kept) < 2:
        return []
    apart = [abs(ratio - 1) for ratio, _ in kept]
    row: Row = {
        "kernels": f"{len(kept)} of {least_ms:g} ms and more" if least_ms else f"all {len(kept)}",
        "median apart": median(apart),
        "p90 apart": quantiles(apart, n=10)[-1],
        "median ratio": median(ratio for ratio, _ in kept),
        "median us less": median((1 - ratio) * python_ms * 1e3 for ratio, python_ms in kept),
        "goal": f"median <= {AGREEMENT:.0%}",
        "met": median(apart) <= AGREEMENT,
    }
    return [row]


def found_or_built(cache: Path) -> BuiltRunner:
    """This machine's runner of the present sources. Raises SystemExit that says what building it lacks."""
    target = platform.machine()
    if (found := find_runner(cache, target)) is not None:
        return found
    # fetching zig takes longer than g++ where that is here already
    compiler = "host" if shutil.which("g++") and not has_zig(cache) else "zig"
    try:
        return build_runner(target, cache, compiler=compiler, said=print)
    except (CannotBuild, OSError) as error:
        raise SystemExit(f"{cache} holds no runner of the present sources, and none can be built: {error}") from error


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line; nothing is needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, nargs="?", default=CACHE)
    parser.add_argument("--kernels", type=int, default=300)
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--launches", type=int, default=5)
    return parser.parse_args(arguments)


def main() -> None:
    given = options()
    native = found_or_built(given.cache)
    target = Target("ncnn", given.precision)
    with tempfile.TemporaryDirectory(prefix="benchfarm-native-") as folder:
        files = Files(Path(folder))
        batch = ready_kernels(files, target, given.kernels)
        times = launches_in_turn(files, batch, target, native, given.launches)
    rows, each = agreement(batch, *times)
    for ratio, label, python_ms in each:
        print(f"{ratio:6.3f}  {python_ms:9.4f} ms  {label}")
    size: Row = {"binary_bytes": native.size_bytes, "size goal": f"<= {SIZE_MAX_BYTES}", "compiler": native.compiler}
    write_section(f"native runner, {given.precision}", command_run(), [row | size for row in rows])
    print(*rows, size, sep="\n")


if __name__ == "__main__":
    main()
