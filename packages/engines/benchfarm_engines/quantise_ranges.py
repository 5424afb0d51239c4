"""What values a graph's tensors take on seeded inputs: the ranges that int8 steps are made of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort

from benchfarm_engines.inputs import make_inputs
from benchfarm_engines.launch_request import InputSpec

Range = tuple[float, float]

_REDRAWS: Final = 3
"""Beside the workload's own inputs, which are among those that ranges are learnt from: on a small tensor a few draws
miss its largest number, and what is then held against the reference is luck, not the engine's arithmetic."""

SOFTMAX_OF_ONE: Final[Range] = (0.0, 255 / 128)
"""Of a Softmax over one number, which gives 1: steps of 1/128 say that exactly. With those of 0 to 1 ONNX Runtime's own
8-bit Softmax overflows (1.31.1): its table leaves room for 148 steps in a 1, and it would take 254."""

_SILENT: Final = 4


def learn_ranges(model: onnx.ModelProto, inputs: Sequence[InputSpec], seed: int) -> dict[str, Range]:
    """Smallest and largest value of every fp32 tensor that a node gives or the graph takes.

    inputs: the workload's; every further draw has the same fills with other seeds. Raises what ONNX Runtime raises.
    """
    session = _session(model)
    names = [each.name for each in session.get_outputs()]
    ranges: dict[str, Range] = {}
    results: dict[str, Any] = {}
    redrawn = [[_redrawn(spec, seed, draw) for spec in inputs] for draw in range(_REDRAWS)]
    for specs in [inputs, *redrawn]:
        arrays = make_inputs(specs)
        _widen(ranges, arrays)
        results = dict(zip(names, session.run(names, arrays), strict=True))
        _widen(ranges, results)
    return ranges | dict.fromkeys(_softmaxes_of_one(model.graph, results), SOFTMAX_OF_ONE)


def _softmaxes_of_one(graph: onnx.GraphProto, results: Mapping[str, Any]) -> Iterator[str]:
    """What gives 1 whatever it is given."""
    for node in graph.node:
        if node.op_type == "Softmax":
            axis = next((each.i for each in node.attribute if each.name == "axis"), -1)
            if results[node.output[0]].shape[axis] == 1:
                yield node.output[0]


def _session(model: onnx.ModelProto) -> Any:
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    made = dict.fromkeys(name for node in observed.graph.node for name in node.output if name)
    observed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # sums in one order: the same bits every time
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _SILENT
    return ort.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _redrawn(spec: InputSpec, seed: int, draw: int) -> InputSpec:
    other = np.random.SeedSequence([seed, draw, int(spec.fill["seed"])]).generate_state(1)[0]
    return replace(spec, fill={**spec.fill, "seed": int(other)})


def _widen(ranges: dict[str, Range], results: Mapping[str, Any]) -> None:
    for name, array in results.items():
        if isinstance(array, np.ndarray) and array.dtype == np.float32 and array.size:
            low, high = ranges.get(name, (0.0, 0.0))  # zero is always in: padding is made of it
            ranges[name] = (min(low, float(array.min())), max(high, float(array.max())))
