"""The limited child that opens an uploaded model: ``python -I -m benchfarm_workloads.inspect_child``.

Reads an InspectionRequest on its standard input, confines itself, and only then imports onnx or LiteRT and looks at the
file, through descriptors that it inherited: it can open no path of the farm. Writes one verdict to its standard
output, the reference to the descriptor that it was given, and what it has to tell the operator to stderr.
"""

import errno
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import IO, Final

from benchfarm_core.confine import ConfinementIncomplete, Limits, confine
from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.verdicts import (
    NO_ROOM,
    NOT_CONFINED,
    VERDICT,
    Accepted,
    InspectionRequest,
    Refused,
    cleaned,
)

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def main() -> int:
    """Always answers with a verdict, unless the kernel ends the process first or cannot confine it, or the disk of the
    farm is full."""
    try:
        return _answer()
    except Exception as error:  # boundary: only to see whether it came of a full disk
        if _is_full(error):
            os._exit(NO_ROOM)  # an orderly end would write what is left, fail at it and end with another status
        raise


def _answer() -> int:
    verdict_stream = _private_stdout()
    request = InspectionRequest.model_validate_json(sys.stdin.buffer.read())
    signal.alarm(int(request.limits.wall_s) + 5)  # in case the parent is gone
    try:
        confinement = confine(_limits(request))
    except ConfinementIncomplete as error:
        print(error, file=sys.stderr)
        return NOT_CONFINED
    verdict = _verdict(request, confinement)
    verdict_stream.write(VERDICT.dump_json(verdict))
    verdict_stream.flush()
    return 0


def _limits(request: InspectionRequest) -> Limits:
    return Limits(
        memory_bytes=request.limits.memory_bytes,
        cpu_s=request.limits.cpu_s,
        uid=request.limits.uid,
        gid=request.limits.gid,
        readable=(str(Path(__file__).resolve().parent),),  # an editable install lies beside the search path
        file_size_bytes=request.limits.reference_bytes + 1024**2,
        strict=True,
    )


def _private_stdout() -> IO[bytes]:
    """Keeps the real standard output for the verdict and sends what libraries print to stderr."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "wb")


def _verdict(request: InspectionRequest, confinement: tuple[str, ...]) -> Accepted | Refused:
    try:
        return _inspect(request, confinement)
    except InvalidRequest as refusal:
        return VERDICT.validate_python(
            {
                "verdict": "refused",
                "code": refusal.code,
                "detail": cleaned(refusal.detail),
                "field": cleaned(refusal.field, 100) if refusal.field else None,
            }
        )
    except MemoryError:
        return Refused(
            code="model_too_large_for_inspection",
            detail="opening the model takes more memory than an inspection may use; submit a smaller one",
        )
    except Exception as error:  # boundary: whatever a file provokes becomes a verdict
        if _is_full(error):
            raise
        traceback.print_exc()
        said = cleaned(f"{type(error).__name__}: {error}", 200)
        return Refused(code="inspection_failed", detail=f"the model could not be opened ({said}); export it again")


def _is_full(error: BaseException | None) -> bool:
    """Whether it came of a full disk: what closes a file after such a failure fails too, and says something else."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _inspect(request: InspectionRequest, confinement: tuple[str, ...]) -> Accepted:
    with os.fdopen(request.model_descriptor, "rb") as file:
        content = file.read()
    with os.fdopen(request.reference_descriptor, "wb") as target:
        return _READERS[request.format](content, request, target, confinement)


def _inspect_onnx(
    content: bytes, request: InspectionRequest, target: IO[bytes], confinement: tuple[str, ...]
) -> Accepted:
    from benchfarm_workloads import input_fills, onnx_checks, onnx_inputs, onnx_reading, onnx_reference

    limits = request.limits
    model = onnx_checks.parse(content)
    opset = onnx_checks.check(model, max_nodes=limits.nodes)
    onnx_inputs.refuse_outputs(model)
    inputs = onnx_inputs.bind_inputs(model, request.dims, request.fills, max_bytes=limits.input_bytes)
    parameters = onnx_reading.parameters(model)
    weights = onnx_reading.weight_infos(model.graph)
    onnx_checks.strip_weights(model)
    reading = onnx_reading.read(onnx_reading.with_shapes(model), weights)
    del model
    outputs = onnx_reference.write_reference(content, inputs, target, limits.reference_bytes)
    return Accepted(
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        graph=reading.graph,
        flops=reading.flops,
        parameters=parameters,
        reasons=(*reading.reasons, *input_fills.default_fill_reasons(inputs, request.fills)),
        confinement=confinement,
    )


def _inspect_tflite(
    content: bytes, request: InspectionRequest, target: IO[bytes], confinement: tuple[str, ...]
) -> Accepted:
    from benchfarm_workloads import input_fills, tflite_file, tflite_reading

    limits = request.limits
    graphs = tflite_file.read_file(content, max_nodes=limits.nodes)
    tflite_reading.refuse_outputs(graphs[0])
    inputs = tflite_reading.bind_inputs(graphs[0], request.dims, request.fills, max_bytes=limits.input_bytes)
    try:
        from benchfarm_workloads import tflite_reference
    except ImportError as error:
        print(error, file=sys.stderr)
        raise InvalidRequest(
            "this farm cannot run .tflite files once to know their result: its operator installs "
            "benchfarm-workloads[inspect_tflite] (ai-edge-litert) beside the API",
            code="format_unavailable",
        ) from error
    names = tflite_reference.operator_names()
    tflite_reading.refuse_random(graphs, names)
    run = tflite_reference.ReferenceRun(content, inputs)
    reading = tflite_reading.read(graphs, names, run.shapes())
    run = tflite_reference.by_reference_kernels(run, content, inputs, reading.flops)
    return Accepted(
        opset=tflite_file.SCHEMA_VERSION,
        inputs=inputs,
        outputs=run.write(target, limits.reference_bytes),
        graph=reading.graph,
        flops=reading.flops,
        parameters=reading.parameters,
        reasons=(*reading.reasons, *input_fills.default_fill_reasons(inputs, request.fills)),
        confinement=confinement,
    )


_READERS: Final = {"onnx": _inspect_onnx, "tflite": _inspect_tflite}


if __name__ == "__main__":
    sys.exit(main())
