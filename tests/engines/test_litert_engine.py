"""LiteRT's session: files that others wrote, refusals with their codes, and nothing left behind."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from ai_edge_litert import schema_py_generated as schema

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, OpenRequest, Session
from benchfarm_engines.engine_options import check_options
from benchfarm_engines.gate import relative_l2
from benchfarm_engines.launch_request import Gate, Visit
from benchfarm_engines.litert_engine import ENGINE
from benchfarm_engines.litert_writer import Quant, TfliteWriter
from benchfarm_engines.task_threads import thread_ids
from benchfarm_engines.visit import check_session
from tests.engines.catalogue import drawn_kernels
from tests.engines.test_litert_convert import converted, opened

Code = schema.BuiltinOperator
X = np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)


def file_of(code: int, shape: tuple[int, ...] = (1, 4), dtype: str = "float32") -> bytes:
    """One operator from ``serving_default_x:0`` to ``y``, as somebody else's exporter might write it."""
    writer = TfliteWriter()
    x, y = writer.tensor(shape, dtype, "serving_default_x:0"), writer.tensor(shape, dtype, "y")
    writer.operator(code, [x], [y])
    return writer.to_bytes([x], [y])


def open_file(content: bytes, folder: Path, inputs: Mapping[str, Any] | None = None, **changes: Any) -> Session:
    artifact = folder / "given.tflite"
    artifact.write_bytes(content)
    fields: dict[str, Any] = {"precision": "as_given", "threads": 1, "options": check_options({}, ENGINE.options)}
    given = {"serving_default_x:0": X} if inputs is None else inputs
    return ENGINE.open(OpenRequest(artifact, given, **{**fields, **changes}))


def failure(content: bytes, folder: Path, inputs: Mapping[str, Any] | None = None, **changes: Any) -> EngineFailure:
    with pytest.raises(EngineFailure) as caught:
        open_file(content, folder, inputs, **changes).run()
    assert str(folder) not in caught.value.detail
    return caught.value


@pytest.mark.parametrize("delegate", ["xnnpack", "none"])
def test_a_file_runs_as_it_is(tmp_path: Path, delegate: str) -> None:
    options = check_options({"delegate": delegate}, ENGINE.options)
    session = open_file(file_of(Code.RELU), tmp_path, options=options)
    session.run()
    np.testing.assert_array_equal(session.outputs()[0], np.maximum(X, 0))
    assert session.computes_in() == "as_given"
    session.close()


@pytest.mark.parametrize("kept", ["float32", "int8"])
def test_a_dense_layer_of_8_bit_weights_and_fp32_numbers_computes_in_fp32(tmp_path: Path, kept: str) -> None:
    """Its precision is what the layer gives: edges of 8 bits beside it make no int8."""
    writer, steps = TfliteWriter(), Quant((0.1,))
    x = writer.tensor((1, 4), "float32", "serving_default_x:0")
    weights = writer.constant(np.full((3, 4), 10, np.int8), steps)
    y, codes = writer.tensor((1, 3), "float32", "y"), writer.tensor((1, 3), "int8", "codes", steps)
    writer.operator(Code.FULLY_CONNECTED, [x, weights, -1], [y], schema.FullyConnectedOptionsT())
    writer.operator(Code.QUANTIZE, [y], [codes])
    wanted = y if kept == "float32" else codes
    session = open_file(writer.to_bytes([x], [wanted]), tmp_path, precision="int8")
    assert session.computes_in() == "fp32"
    session.close()


@pytest.mark.parametrize(("off", "is_right"), [(0, True), (1, True), (3, False)])
def test_quantised_outputs_are_compared_as_real_numbers(tmp_path: Path, off: int, is_right: bool) -> None:
    """Codes near -128 that stand for numbers near 0: as codes, three steps off are within the gate's limit."""
    writer, steps = TfliteWriter(), Quant((0.1,), -128)
    x, y = writer.tensor((1, 4), "int8", "x", steps), writer.tensor((1, 4), "int8", "y", steps)
    writer.operator(Code.RELU, [x], [y])
    given = np.array([[-128, -127, -125, -120]], np.int8)
    session = open_file(writer.to_bytes([x], [y]), tmp_path, {"x": given})
    session.run()
    visit = Visit(0, "", "tflite", (), None, (Gate("", 5e-2),))
    stored = [given + np.int8(off)]
    assert relative_l2([given], stored) < 5e-2
    if is_right:
        assert check_session(session, visit, [stored]) == [0]
    else:
        with pytest.raises(EngineFailure, match="relative L2"):
            check_session(session, visit, [stored])


def test_an_open_dimension_takes_the_size_of_the_input(tmp_path: Path) -> None:
    model = schema.ModelT.InitFromPackedBuf(file_of(Code.RELU))
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = [-1, 4]
    from flatbuffers import Builder

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    wide = np.ones((3, 4), dtype=np.float32)
    session = open_file(bytes(builder.Output()), tmp_path, {"serving_default_x:0": wide})
    session.run()
    np.testing.assert_array_equal(session.outputs()[0], wide)


@pytest.mark.parametrize(
    ("content", "code", "subject"),
    [
        (b"hello, I am a text", FailureCode.INVALID_WORKLOAD, ""),
        (b"", FailureCode.INVALID_WORKLOAD, ""),
        (file_of(Code.RELU)[:200], FailureCode.INVALID_WORKLOAD, ""),
        (file_of(Code.NON_MAX_SUPPRESSION_V4), FailureCode.UNSUPPORTED_OPERATOR, "NON_MAX_SUPPRESSION_V4"),
        (file_of(250), FailureCode.UNSUPPORTED_OPERATOR, "250"),
        (file_of(Code.CUSTOM), FailureCode.UNSUPPORTED_OPERATOR, "CUSTOM"),
    ],
)
def test_what_cannot_be_opened_says_why(tmp_path: Path, content: bytes, code: FailureCode, subject: str) -> None:
    refused = failure(content, tmp_path)
    assert (refused.code, refused.subject) == (code, subject)


def test_a_model_beyond_memory_says_so(tmp_path: Path) -> None:
    huge = 2**19
    thin = np.broadcast_to(np.float32(0), (huge, huge))
    refused = failure(file_of(Code.RELU, (huge, huge)), tmp_path, {"serving_default_x:0": thin})
    assert refused.code is FailureCode.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "inputs",
    [{"x": X}, {"serving_default_x:0": X.astype(np.float64)}, {"serving_default_x:0": X.reshape(4)}],
)
def test_other_inputs_are_refused(tmp_path: Path, inputs: dict[str, Any]) -> None:
    assert failure(file_of(Code.RELU), tmp_path, inputs).code is FailureCode.INVALID_WORKLOAD


@pytest.mark.parametrize("kernel", ["conv-bn-act", "resize"])
def test_the_pool_is_counted_also_where_built_in_kernels_compute(tmp_path: Path, kernel: str) -> None:
    [drawn] = drawn_kernels(kernel, 1)
    session = opened(converted(drawn), drawn, tmp_path, threads=2)
    before = thread_ids()
    session.run()
    assert session.threads == 2
    assert thread_ids() == before
    session.close()


def test_built_in_kernels_compute_on_one_thread_alone(tmp_path: Path) -> None:
    options = check_options({"delegate": "none"}, ENGINE.options)
    refused = failure(file_of(Code.RELU), tmp_path, options=options, threads=2)
    assert refused.code is FailureCode.THREADS_NOT_OBEYED


def test_an_int8_file_cannot_pass_for_fp32(tmp_path: Path) -> None:
    from benchfarm_engines.quantise import quantise

    [drawn] = drawn_kernels("fc", 1)
    source, edges = quantise(drawn[0], drawn[1], check_options({}, ENGINE.options))
    session = opened(converted(drawn, source, edges, "int8"), drawn, tmp_path, precision="fp32")
    assert session.computes_in() == "int8"
    session.close()


def test_nothing_is_written_and_the_converter_stays_off_the_board(tmp_path: Path) -> None:
    [drawn] = drawn_kernels("conv-bn-act", 1)
    made = converted(drawn)
    artifact = tmp_path / "model.tflite"
    artifact.write_bytes(made.content)
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from benchfarm_engines.engine import OpenRequest\n"
        "from benchfarm_engines.engine_options import check_options\n"
        "from benchfarm_engines.litert_engine import ENGINE\n"
        f"inputs = {{'x0': np.ones({[drawn[1][0].shape[axis] for axis in (0, 2, 3, 1)]}, dtype=np.float32)}}\n"
        f"request = OpenRequest(Path({str(artifact)!r}), inputs, 'fp32', 1, check_options({{}}, ENGINE.options))\n"
        "ENGINE.open(request).run()\n"
        "assert not {'onnx', 'onnxruntime', 'flatbuffers', 'pydantic', 'tensorflow'} & set(sys.modules)\n"
    )
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(home)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    assert not [*home.rglob("*")]


@pytest.mark.parametrize("extra_mib", [30, 90])
def test_memory_that_runs_out_while_opening_has_its_own_code(tmp_path: Path, extra_mib: int) -> None:
    """A file of 64 MiB: too little to map it, then too little to pack its weights."""
    writer, size = TfliteWriter(), 4096
    x, y = writer.tensor((1, size), "float32", "x"), writer.tensor((1, size), "float32", "y")
    weights = writer.constant(np.ones((size, size), dtype=np.float32))
    bias = writer.constant(np.zeros(size, dtype=np.float32))
    writer.operator(Code.FULLY_CONNECTED, [x, weights, bias], [y], schema.FullyConnectedOptionsT())
    artifact = tmp_path / "large.tflite"
    artifact.write_bytes(writer.to_bytes([x], [y]))
    program = (
        "import resource, numpy as np\n"
        "from pathlib import Path\n"
        "from benchfarm_engines.engine import EngineFailure, OpenRequest\n"
        "from benchfarm_engines.engine_options import check_options\n"
        "from benchfarm_engines.litert_engine import ENGINE\n"
        f"inputs = {{'x': np.ones((1, {size}), dtype=np.float32)}}\n"
        f"request = OpenRequest(Path({str(artifact)!r}), inputs, 'fp32', 1, check_options({{}}, ENGINE.options))\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {extra_mib} * 2**20, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    ENGINE.open(request)\n"
        "except EngineFailure as failure:\n"
        "    print(failure.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == FailureCode.OUT_OF_MEMORY, done.stderr
