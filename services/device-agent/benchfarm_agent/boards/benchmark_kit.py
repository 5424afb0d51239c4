"""An operator's `benchmark_model` on a board: put there by its hash, run by a script of ours, told as a runner tells.

The runner's contract is spoken on this side: the board's script runs one process per block and hands their words over.
Nothing looks at outputs, neighbours or canaries, and nothing cages the binary (docs/decisions/0027).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchfarm_agent.benchmark_model import HELP_WORDS, Timed, command, read_benchmark_model
from benchfarm_agent.boards.board_folder import BoardFolder
from benchfarm_agent.boards.clusters import core_list
from benchfarm_agent.boards.interface import LaunchOrder
from benchfarm_agent.boards.remote_runner import ensure_binary
from benchfarm_agent.engine_probe import read_probe, unavailable
from benchfarm_agent.ports.interface import Port
from benchfarm_agent.runner_lines import CONTRACT
from benchfarm_core.boards import EngineReport
from benchfarm_core.correctness import BENCHMARK_MODEL
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine_options import INT8_OPTIONS

PROBE_S: Final = 20.0
VERSION_CHARS: Final = 12
PRECISIONS: Final = ("fp32", "int8")
LINES_PER_PROCESS: Final = 8
_TFLITE: Final = "tflite"

# Parameters: the lock, the cores as a mask, seconds of a block, blocks, seconds of a visit, and the command. On
# standard input a visit and its file per line. What a process says lies in the scratch folder, where this runs.
_SCRIPT: Final = """
lock=$1 mask=$2 block=$3 blocks=$4 limit=$5
shift 5
if command -v flock >/dev/null 2>&1; then
  exec 9>>"$lock"
  flock -n 9 || { echo held; exit 0; }
fi
taskset -p "$mask" "$$" >/dev/null 2>&1 || { echo unbound; exit 0; }
while read -r name cores; do [ "$name" = Cpus_allowed_list: ] && echo "cores $cores"; done <"/proc/$$/status"
told() { grep -E "^([A-Z]+: )?count=|Inference timings in us: " said; }
timed() {
  "$@" >said 2>&1 </dev/null
  status=$?
  if told >/dev/null; then told | head -n 4; else tail -n 3 said; fi |
    while IFS= read -r line; do echo "| $line"; done
  echo "ended $status"
}
while read -r visit graph; do
  echo "started $visit"
  began=$(date +%s)
  timed "$@" "--graph=$graph" --num_runs=1 "--min_secs=$block"
  runs=$(told | head -n 2 | tail -n 1)
  runs=${runs#*count=}
  runs=${runs%% *}
  left=$blocks
  case "$runs" in "" | *[!0-9]*) left=0 ;; esac
  while [ "$left" -gt 0 ] && [ "$status" -eq 0 ]; do
    [ "$(($(date +%s) - began))" -lt "$limit" ] || { echo late; break; }
    timed "$@" "--graph=$graph" "--num_runs=$runs" --min_secs=0
    left=$((left - 1))
  done
  echo "done $visit"
done
echo end
"""


@dataclass(frozen=True)
class Spoken:
    """A launch in a runner's own words: its command on the board, its input, who hears its lines, how many at most."""

    argv: Sequence[str]
    stdin: bytes
    on_line: Callable[[bytes], None]
    lines_max: int


class BenchmarkKit:
    """One binary for one kind of processor."""

    engine = BENCHMARK_MODEL

    def __init__(self, binary: Path) -> None:
        """Raises OSError where the binary cannot be read."""
        self._binary = binary
        self._sha256 = hashlib.sha256(binary.read_bytes()).hexdigest()

    @property
    def version(self) -> str:
        """What tells one binary from another: it does not say its own."""
        return self._sha256[:VERSION_CHARS]

    async def ensure(self, port: Port, folder: BoardFolder) -> None:
        """The binary on the board is the operator's. Raises TransientDeviceError, OSError (ENOSPC)."""
        await ensure_binary(port, folder, self._binary, self._path(folder), self._sha256)

    async def probe(self, port: Port, folder: BoardFolder) -> EngineReport:
        """Whether it runs on the board: asked for help it lists its flags."""
        ran = await port.run([self._path(folder), "--help=true"], timeout_s=PROBE_S)
        said = (ran.stdout + ran.stderr).decode(errors="replace")
        if not all(word in said for word in HELP_WORDS):
            last = " ".join(said.strip().splitlines()[-1:])[:200] or f"it ended with {ran.returncode}"
            return unavailable(self.engine, f"the binary does not answer as benchmark_model does: {last}")
        options = {option.name: option.schema() for option in INT8_OPTIONS}
        answer = {"available": True, "version": self.version, "precisions": PRECISIONS, "options": options}
        return read_probe(self.engine, json.dumps(answer).encode(), b"", 0)

    def spoken(
        self, order: LaunchOrder, places: Mapping[str, str], folder: BoardFolder, on_line: Callable[[bytes], None]
    ) -> Spoken:
        """One launch; places: where the files of its visits lie on the board."""
        request, protocol = order.request, order.request["protocol"]
        whys = {int(visit["visit"]): why_not_visited(visit, order) for visit in request["visits"]}
        plan = [(v["visit"], places[v["artifact"]]) for v in request["visits"] if whys[int(v["visit"])] is None]
        block_s = max(protocol["block_min_us"] / 1e6, protocol["visit_ms"] / 1e3 / protocol["blocks_min"])
        blocks = int(protocol["blocks_min"])
        mask = f"{sum(1 << core for core in request['cores']):x}"
        limit_s = max(1, int(protocol["visit_timeout_s"]))
        words = command(self._path(folder), threads=request["threads"], warmup_s=protocol["warmup_min_ms"] / 1e3)
        argv = ["sh", "-c", _SCRIPT, "sh", folder.running, mask, f"{block_s:g}", str(blocks), str(limit_s), *words]
        refused = {visit: why for visit, why in whys.items() if why is not None}
        hears = BenchmarkLines(on_line, request, self.version, refused, blocks)
        lines_max = 4 + len(plan) * (4 + LINES_PER_PROCESS * (1 + blocks))
        stdin = "".join(f"{visit} {graph}\n" for visit, graph in plan).encode()
        return Spoken(argv, stdin, hears.hear, lines_max)

    def _path(self, folder: BoardFolder) -> str:
        return f"{folder.tools}/benchmark_model-{self._sha256[:16]}"


def why_not_visited(visit: Mapping[str, Any], order: LaunchOrder) -> str | None:
    """What this program cannot do of a visit; the farm asks for none of it."""
    if order.strict:
        return "nothing confines this program, so it opens no stranger's file"
    if order.request["protocol"]["purpose"] != "latency" or visit.get("beside") or visit.get("sites"):
        return "this program tells how long a whole workload takes and no more"
    if visit["format"] != _TFLITE:
        return f"this program opens .tflite files, no .{visit['format']}"
    if any(one["fill"]["kind"] != "normal" for one in visit["inputs"]):
        return "this program fills inputs by itself, and not with whole numbers of a range"
    return None


class BenchmarkLines:
    """Hears what the board's script says and tells it on as lines of the runner's contract."""

    def __init__(
        self,
        on_line: Callable[[bytes], None],
        request: Mapping[str, Any],
        version: str,
        refused: Mapping[int, str],
        blocks: int,
    ) -> None:
        self._on_line = on_line
        self._request = request
        self._version = version
        self._refused = refused
        self._blocks = blocks
        self._words: list[str] = []
        self._timed: list[Timed] = []
        self._failure: tuple[FailureCode, str] | None = None
        self._has_failed = False

    def hear(self, line: bytes) -> None:
        """One line of the script. What is none of its words goes on as it is, and is held to be garbage there."""
        if not self._has_failed:
            self._hear(line)

    def _hear(self, line: bytes) -> None:
        word, _, rest = line.decode(errors="replace").partition(" ")
        if word == "|":
            self._words.append(rest)
        elif word == "ended":
            self._end_process(rest)
        elif word == "late":
            self._failure = (FailureCode.TIMEOUT, "its blocks took longer than a visit may")
        elif word == "started" and rest.isdecimal():
            self._timed, self._failure = [], None
            self._tell({"event": "started", "visit": int(rest)})
        elif word == "done" and rest.isdecimal():
            self._tell({"event": "done", "visit": int(rest), **self._outcome()})
        elif word in ("held", "unbound", "cores"):
            self._begin(word, rest)
        elif word == "end":
            self._tell({"event": "end", "peak_rss_bytes": 0})
        else:
            self._on_line(line)

    def _begin(self, word: str, rest: str) -> None:
        wanted, cores = tuple(self._request["cores"]), core_list(rest)
        if word == "held":
            self._fail("engine_unavailable", "another runner holds this board's lock")
        elif word == "unbound" or set(cores) != set(wanted):
            told = f"it runs on {rest}" if word == "cores" else "the board's taskset does not do it"
            self._fail("affinity_refused", f"cores {list(wanted)} are wanted: {told}")
        else:
            self._tell(self._ready(cores))
            for visit, why in self._refused.items():
                self._tell({"event": "started", "visit": visit})
                self._tell({"event": "done", "visit": visit, **_failed(FailureCode.CONVERSION_FAILED, why)})

    def _ready(self, cores: Sequence[int]) -> dict[str, Any]:
        return {
            "event": "ready",
            "contract": CONTRACT,
            "engine": BENCHMARK_MODEL,
            "engine_version": self._version,
            "precision": self._request["precision"],
            "threads": self._request["threads"],
            "threads_observed": 0,  # it does not tell
            "affinity": list(cores),
            "confinement": [],
            "witness_cost_ns": 0,
            "import_ms": 0,
            "canary_open_ms": 0,
            "ungated": True,
        }

    def _end_process(self, status: str) -> None:
        text, self._words = "\n".join(self._words), []
        try:
            timed = read_benchmark_model(text)
        except TransientDeviceError as error:
            self._failure = self._failure or (FailureCode.ENGINE_ERROR, f"{error.detail} (it ended with {status})")
            return
        if status != "0":
            self._failure = self._failure or (FailureCode.ENGINE_ERROR, f"benchmark_model ended with {status}")
        self._timed.append(timed)

    def _outcome(self) -> dict[str, Any]:
        """Of one visit. The first process only finds out how many inferences make a block."""
        if self._failure is not None:
            return _failed(*self._failure)
        counts = {one.runs for one in self._timed}
        blocks = self._timed[1:]
        if len(blocks) != self._blocks or len(counts) != 1:
            told = f"{len(blocks)} blocks of {sorted(counts)} inferences"
            return _failed(FailureCode.ENGINE_ERROR, f"benchmark_model did not run as it was told: {told}")
        if any(one.block_ns == 0 for one in blocks):
            return _failed(FailureCode.ENGINE_ERROR, "an inference takes less than the microsecond that it counts in")
        return _samples(blocks)

    def _fail(self, code: str, detail: str) -> None:
        self._has_failed = True
        self._tell({"event": "failed", "code": code, "detail": detail})

    def _tell(self, document: Mapping[str, Any]) -> None:
        self._on_line(json.dumps(document).encode())


def _samples(blocks: Sequence[Timed]) -> dict[str, Any]:
    """Of the witness there is nothing: zeros stand for what nobody looked for, as `ungated` says."""
    times_ns = [one.block_ns for one in blocks]
    return {
        "outcome": "ok",
        "iterations": blocks[0].runs,
        "blocks_ns": times_ns,
        "delays_ns": [0] * len(blocks),
        "switches": [0] * len(blocks),
        "canaries": {},
        "open_ms": blocks[0].init_us / 1e3,
        "first_ms": blocks[0].first_us / 1e3,
        "warmup_runs": blocks[0].warmup_runs,
        "gate_relative_l2": None,
        "timed_ms": sum(times_ns) / 1e6,
        "canary_ms": 0,
    }


def _failed(code: FailureCode, detail: str) -> dict[str, Any]:
    return {"outcome": "failed", "code": str(code), "detail": detail}
