"""What `benchmark_model` says, as its users recorded it; no binary was run here."""

import pytest

from benchfarm_agent.benchmark_model import Timed, command, read_benchmark_model
from benchfarm_core.errors import TransientDeviceError

# github.com/NobuoTsukamoto/meta-tensorflow-lite, its page about the benchmark tool: TensorFlow Lite 2.8 in QEMU, less
# its profiles.
RISCV = """\
STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [./mobilenet_v1_1.0_224.tflite]
#threads used for CPU inference: [4]
Loaded model ./mobilenet_v1_1.0_224.tflite
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
Timings (microseconds): count=50 first=2989660 curr=2912978 min=2727203 max=3189476 avg=2.9499e+06 std=109770
"""


def test_a_recorded_output_is_read() -> None:
    timed = read_benchmark_model(RISCV)
    assert timed == Timed(runs=50, mean_us=2.95034e6, init_us=17187, first_us=3512391, warmup_runs=1)
    assert timed.block_ns == 147_517_000_000


def test_runs_that_all_took_the_same_have_no_mean_of_their_own() -> None:
    """As `Stat` writes it then."""
    line = next(line for line in RISCV.splitlines() if line.startswith("count=50"))
    timed = read_benchmark_model(RISCV.replace(line, "count=50 curr=12(all same)"))
    assert (timed.runs, timed.mean_us) == (50, 12)


@pytest.mark.parametrize("text", ["", RISCV[:600], "ERROR: Failed to load model"])
def test_what_tells_no_timings_is_refused_with_its_words(text: str) -> None:
    last = text.strip().splitlines()[-1] if text else "nothing"
    with pytest.raises(TransientDeviceError) as refused:
        read_benchmark_model(text)
    assert last[:100] in refused.value.detail


def test_a_process_is_told_its_threads_and_its_delegate() -> None:
    words = command("/b", threads=2, warmup_s=0.002)
    assert words == ["/b", "--num_threads=2", "--use_xnnpack=true", "--warmup_runs=1", "--warmup_min_secs=0.002"]


def test_lines_with_the_names_of_their_levels_are_read() -> None:
    """As newer versions write them."""
    told = "\n".join(f"INFO: {line}" if line else "" for line in RISCV.splitlines())
    assert read_benchmark_model(told) == read_benchmark_model(RISCV)
