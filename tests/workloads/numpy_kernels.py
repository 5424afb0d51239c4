"""What each kernel type means, in plain numpy: written apart from the ONNX writers, and compared with them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchfarm_workloads.columns import Config, Scalar, integer

Array = NDArray[Any]
Weights = dict[str, Array]


def expected(kind: str, config: Config, xs: list[Array], weights: Weights) -> list[Array]:
    """The kernel's outputs in float64; ``weights`` by the names that they have in the file."""
    linear = LINEAR[kind](config, xs, weights)
    if isinstance(linear, list):
        return linear
    return [activate(config.get("act", "none"), linear)]


def activate(act: Scalar, x: Array) -> Array:
    gate = np.clip(x / 6 + 0.5, 0, 1)
    results: dict[Scalar, Callable[[], Array]] = {
        "none": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "relu6": lambda: np.clip(x, 0, 6),
        "hsigmoid": lambda: gate,
        "hswish": lambda: x * gate,
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "swish": lambda: x / (1 + np.exp(-x)),
        "gelu": lambda: x * np.vectorize(lambda each: (1 + math.erf(each / math.sqrt(2))) / 2)(x),
    }
    return results[act]()


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Array = powers / powers.sum(axis=-1, keepdims=True)
    return total


def windows(x: Array, config: Config, fill: float) -> Array:
    """batch x channels x out x out x k x k views of the padded input."""
    k, s = integer(config, "k"), integer(config, "s")
    pad = (k - 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))[:, :, ::s, ::s]


def conv(config: Config, xs: list[Array], weights: Weights) -> Array:
    y: Array = np.einsum("bchwij,ocij->bohw", windows(xs[0], config, 0.0), weights["y/weight"])
    return y + weights["y/bias"][:, None, None]


def dwconv(config: Config, xs: list[Array], weights: Weights) -> Array:
    y: Array = np.einsum("bchwij,cij->bchw", windows(xs[0], config, 0.0), weights["y/weight"][:, 0])
    return y + weights["y/bias"][:, None, None]


def group_conv(config: Config, xs: list[Array], weights: Weights) -> Array:
    """Each group as a convolution of its own."""
    groups = integer(config, "groups")
    filters, biases = np.split(weights["y/weight"], groups), np.split(weights["y/bias"], groups)
    parts = zip(np.split(xs[0], groups, axis=1), filters, biases, strict=True)
    each = [conv(config, [x], {"y/weight": weight, "y/bias": bias}) for x, weight, bias in parts]
    return np.concatenate(each, axis=1)


def deconv(config: Config, xs: list[Array], weights: Weights) -> Array:
    """Every pixel spreads a window; the rim is cut off."""
    k, s, hw = (integer(config, column) for column in ("k", "s", "hw"))
    batch, cout = xs[0].shape[0], integer(config, "cout")
    wide = np.zeros((batch, cout, (hw - 1) * s + k, (hw - 1) * s + k))
    for row in range(hw):
        for column in range(hw):
            spread = np.einsum("bc,coij->boij", xs[0][:, :, row, column], weights["y/weight"])
            wide[:, :, row * s : row * s + k, column * s : column * s + k] += spread
    rim = (wide.shape[2] - hw * s) // 2
    return wide[:, :, rim : rim + hw * s, rim : rim + hw * s] + weights["y/bias"][:, None, None]


def se(config: Config, xs: list[Array], weights: Weights) -> Array:
    inner = xs[0].mean(axis=(2, 3)) @ weights["y/reduce/weight"][:, :, 0, 0].T + weights["y/reduce/bias"]
    outer = np.maximum(inner, 0) @ weights["y/expand/weight"][:, :, 0, 0].T + weights["y/expand/bias"]
    return xs[0] * activate(config["gate"], outer)[:, :, None, None]


def channel_shuffle(config: Config, xs: list[Array], weights: Weights) -> Array:
    groups = integer(config, "groups")
    size = xs[0].shape[1] // groups
    order = [group * size + index for index in range(size) for group in range(groups)]
    return xs[0][:, order]


def resize(config: Config, xs: list[Array], weights: Weights) -> Array:
    scale, hw = integer(config, "scale"), integer(config, "hw")
    if config["mode"] == "nearest":
        return xs[0].repeat(scale, axis=2).repeat(scale, axis=3)
    rows = np.zeros((hw * scale, hw))
    for index in range(hw * scale):
        centre = min(max((index + 0.5) / scale - 0.5, 0), hw - 1)
        below = int(centre)
        rows[index, below] += 1 - (centre - below)
        rows[index, min(below + 1, hw - 1)] += centre - below
    y: Array = np.einsum("pi,qj,bcij->bcpq", rows, rows, xs[0])
    return y


def matmul(config: Config, xs: list[Array], weights: Weights) -> Array:
    right = weights["y/weight"] if config["form"] == "weight" else xs[1]
    y: Array = xs[0] @ right
    return y


def attention(config: Config, xs: list[Array], weights: Weights) -> Array:
    """Head by head."""
    size = integer(config, "head_dim")
    heads = []
    for index in range(integer(config, "heads")):
        query, key, value = (x[:, :, index * size : (index + 1) * size] for x in xs)
        scores = np.einsum("bqd,bkd->bqk", query, key) / math.sqrt(size)
        heads.append(softmax(scores) @ value)
    return np.concatenate(heads, axis=2)


def layernorm(config: Config, xs: list[Array], weights: Weights) -> Array:
    centred = xs[0] - xs[0].mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    scaled: Array = normal * weights["y/weight"] + weights["y/bias"]
    return scaled


def patch_embed(config: Config, xs: list[Array], weights: Weights) -> Array:
    """Each patch a vector, times one matrix."""
    k, hw = integer(config, "k"), integer(config, "hw")
    grid = [(row, column) for row in range(0, hw, k) for column in range(0, hw, k)]
    patches = [xs[0][:, :, row : row + k, column : column + k].reshape(len(xs[0]), -1) for row, column in grid]
    matrix = weights["y/weight"].reshape(integer(config, "dim"), -1).T
    tokens: Array = np.stack(patches, axis=1) @ matrix + weights["y/bias"]
    return tokens


LINEAR: dict[str, Callable[[Config, list[Array], Weights], Array | list[Array]]] = {
    "conv-bn-act": conv,
    "dwconv-bn-act": dwconv,
    "fc": lambda config, xs, weights: xs[0] @ weights["y/weight"].T + weights["y/bias"],
    "maxpool": lambda config, xs, weights: windows(xs[0], config, -np.inf).max(axis=(4, 5)),
    "avgpool": lambda config, xs, weights: np.nanmean(windows(xs[0], config, np.nan), axis=(4, 5)),
    "global-avgpool": lambda config, xs, weights: xs[0].mean(axis=(2, 3), keepdims=True),
    "add-act": lambda config, xs, weights: xs[0] + xs[1],
    "se": se,
    "act": lambda config, xs, weights: xs[0],
    "concat": lambda config, xs, weights: np.concatenate(xs, axis=1),
    "group-conv": group_conv,
    "deconv-bn-act": deconv,
    "mul": lambda config, xs, weights: xs[0] * xs[1],
    "split": lambda config, xs, weights: list(np.split(xs[0], integer(config, "parts"), axis=1)),
    "channel-shuffle": channel_shuffle,
    "resize": resize,
    "linear": lambda config, xs, weights: xs[0] @ weights["y/weight"] + weights["y/bias"],
    "matmul": matmul,
    "attention": attention,
    "layernorm": layernorm,
    "gelu": lambda config, xs, weights: activate("gelu", xs[0]),
    "softmax": lambda config, xs, weights: softmax(xs[0]),
    "token-add": lambda config, xs, weights: xs[0] + xs[1],
    "pos-embed": lambda config, xs, weights: xs[0] + weights["y/weight"],
    "reduce-mean": lambda config, xs, weights: xs[0].mean(axis=1),
    "patch-embed": patch_embed,
}
