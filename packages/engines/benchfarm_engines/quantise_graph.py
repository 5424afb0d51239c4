"""Writes the QDQ graph: steps in, weights and biases in integers, names kept so that a profile can be read.

A tensor ``t`` with steps becomes ``t/quantised`` (8 bits) and ``t/restored`` (what its readers read); a weight ``w``
becomes ``w/int8`` with ``w/restored``. A graph output keeps its name: as 8 bits with int8 edges, else restored.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchfarm_engines.products import PRODUCTS
from benchfarm_engines.quantise_steps import Steps, stored, symmetric, weight_steps

Array = np.ndarray[Any, Any]

_TYPES: Final = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8}
_BIASED: Final = frozenset({"Conv", "ConvTranspose", "Gemm"})


class QuantisedGraph:
    """A model rewritten with steps; the given one is left as it is."""

    def __init__(self, model: onnx.ModelProto, steps: Mapping[str, Steps], *, int8_edges: bool) -> None:
        """steps: of every tensor that takes them, by name."""
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._steps = steps
        self._int8_edges = int8_edges
        self._constants = {each.name: each for each in model.graph.initializer}
        self._outputs = {each.name for each in model.graph.output}
        self._nodes: list[onnx.NodeProto] = []
        self._added: dict[str, onnx.TensorProto] = {}
        self._products: dict[str, Array] = {}
        self._rewrite()

    def to_bytes(self) -> bytes:
        """The serialised model."""
        return bytes(self._model.SerializeToString(deterministic=True))

    def _rewrite(self) -> None:
        graph = self._model.graph
        for value in graph.input:
            if value.name in self._steps:
                self._enter(value)
        for name in [each for each in self._constants if each in self._steps]:
            self._constant(f"{name}/quantised", stored(numpy_helper.to_array(self._constants[name]), self._steps[name]))
            self._restore(name, f"{name}/quantised", f"{name}/restored")
        for node in list(graph.node):
            self._nodes.append(self._rewired(node))
            for name in node.output:
                if name in self._steps:
                    self._step(name)
        if self._int8_edges:
            for value in graph.output:
                if value.name in self._steps:
                    value.type.tensor_type.elem_type = _TYPES[self._steps[value.name].dtype]
        del graph.node[:]
        graph.node.extend(self._nodes)
        self._replace_constants(graph)
        del graph.value_info[:]  # types have changed; every engine infers them

    def _enter(self, value: onnx.ValueInfoProto) -> None:
        name = value.name
        if self._int8_edges:
            value.type.tensor_type.elem_type = _TYPES[self._steps[value.name].dtype]
            self._restore(name, name, f"{name}/restored")
        else:
            self._quantise(name, name, f"{name}/quantised")
            self._restore(name, f"{name}/quantised", f"{name}/restored")

    def _step(self, name: str) -> None:
        """Steps behind the node that gives ``name``."""
        if name not in self._outputs:
            self._quantise(name, name, f"{name}/quantised")
            self._restore(name, f"{name}/quantised", f"{name}/restored")
        elif self._int8_edges:
            self._quantise(name, f"{name}/exact", name)
            if any(name in node.input for node in self._model.graph.node):
                self._restore(name, name, f"{name}/restored")
        else:
            self._quantise(name, f"{name}/exact", f"{name}/quantised")
            self._restore(name, f"{name}/quantised", name)

    def _rewired(self, node: onnx.NodeProto) -> onnx.NodeProto:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = [self._restored_name(name) for name in node.input]
        made.output[:] = [
            f"{name}/exact" if name in self._outputs and name in self._steps else name for name in node.output
        ]
        if node.op_type in PRODUCTS and node.input[0] in self._steps and node.input[1] in self._constants:
            self._fill_in_weight(node, made)
        if node.op_type == "Add":
            self._fill_in_bias(node, made)
        return made

    def _restored_name(self, name: str) -> str:
        if name not in self._steps:
            return name
        restored_output = name in self._outputs and not self._int8_edges
        return name if restored_output else f"{name}/restored"

    def _fill_in_weight(self, node: onnx.NodeProto, made: onnx.NodeProto) -> None:
        weight = numpy_helper.to_array(self._constants[node.input[1]])
        if weight.dtype != np.float32 or weight.ndim < 2:
            return
        axis, site = _channel_axis(node, weight), node.name or node.output[0]
        biased = node.op_type in _BIASED and len(node.input) > 2 and node.input[2] in self._constants
        bias = numpy_helper.to_array(self._constants[node.input[2]]) if biased else None
        input_scale = self._steps[node.input[0]].scale
        scales = weight_steps(weight, axis, bias, input_scale)
        made.input[1] = self._integers(f"{site}/weight", symmetric(weight, scales, axis, "int8"), scales, axis)
        products = (scales.astype(np.float64) * input_scale).astype(np.float32)
        self._products[node.output[0]] = products
        if bias is not None and bias.shape == scales.shape:
            made.input[2] = self._integers(f"{site}/bias", symmetric(bias, products, 0, "int32"), products, 0)

    def _fill_in_bias(self, node: onnx.NodeProto, made: onnx.NodeProto) -> None:
        """The vector added to a MatMul that it is one with: int32 in the steps of the products, like any bias."""
        joined = [name for name in node.input if name in self._products and name not in self._steps]
        for place, name in enumerate(node.input):
            if joined and name in self._constants:
                bias, products = numpy_helper.to_array(self._constants[name]), self._products[joined[0]]
                if bias.shape == products.shape:
                    values = symmetric(bias, products, 0, "int32")
                    made.input[place] = self._integers(f"{node.output[0]}/bias", values, products, 0)

    def _integers(self, name: str, values: Array, scales: Array, axis: int) -> str:
        """Adds constants in integers with the node that restores them; returns the restored tensor's name."""
        parts = {"": values, "/scale": scales, "/zero": np.zeros(scales.shape, values.dtype)}
        names = [self._constant(f"{name}/{values.dtype}{part}", each) for part, each in parts.items()]
        restored = f"{name}/restored"
        self._nodes.append(helper.make_node("DequantizeLinear", names, [restored], name=restored, axis=axis))
        return restored

    def _quantise(self, tensor: str, source: str, target: str) -> None:
        inputs, name = [source, *self._scale(tensor)], f"{tensor}/quantised"
        self._nodes.append(helper.make_node("QuantizeLinear", inputs, [target], name=name))

    def _restore(self, tensor: str, source: str, target: str) -> None:
        inputs, name = [source, *self._scale(tensor)], f"{tensor}/restored"
        self._nodes.append(helper.make_node("DequantizeLinear", inputs, [target], name=name))

    def _scale(self, tensor: str) -> list[str]:
        steps = self._steps[tensor]
        return [
            self._constant(f"{tensor}/quantised/scale", np.asarray(steps.scale, np.float32)),
            self._constant(f"{tensor}/quantised/zero_point", np.asarray(steps.zero_point, steps.dtype)),
        ]

    def _constant(self, name: str, values: Array) -> str:
        self._added[name] = numpy_helper.from_array(values, name)
        return name

    def _replace_constants(self, graph: onnx.GraphProto) -> None:
        """Constants that nothing reads any more go: the fp32 weights."""
        read = {name for node in self._nodes for name in node.input} | self._outputs
        kept = [each for each in graph.initializer if each.name in read]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self._added.values()])


def _channel_axis(node: onnx.NodeProto, weight: Array) -> int:
    if node.op_type == "MatMul":
        return weight.ndim - 1
    if node.op_type == "Gemm":
        return 0 if any(each.name == "transB" and each.i for each in node.attribute) else 1
    return 1 if node.op_type == "ConvTranspose" else 0
