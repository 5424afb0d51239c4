"""What goes into a kernel and what comes out: the dimensions of its tensors, one rule per kernel type.

Images are batch x channels x hw x hw, sequences of tokens batch x seq x dim. All tensors are float32. Every rule
takes a canonical configuration.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchfarm_workloads.columns import Scalar, integer

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensors:
    """The dimensions of a kernel's inputs and outputs, in the order in which it takes and gives them."""

    inputs: tuple[Dims, ...]
    outputs: tuple[Dims, ...]

    @property
    def input_elements(self) -> int:
        """Elements of all inputs together."""
        return sum(math.prod(dims) for dims in self.inputs)

    @property
    def output_elements(self) -> int:
        """Elements of all outputs together."""
        return sum(math.prod(dims) for dims in self.outputs)


TensorRule = Callable[[Mapping[str, Scalar]], Tensors]


def padding(k: int) -> int:
    """Zeros on every side of a window of ``k`` pixels: "same" for odd k, none for k = 2."""
    return (k - 1) // 2


def output_hw(hw: int, k: int, s: int) -> int:
    """Height and width after a window of ``k`` pixels with stride ``s`` and its padding."""
    return (hw + 2 * padding(k) - k) // s + 1


def conv(config: Mapping[str, Scalar]) -> Tensors:
    """A window over the image, ``cout`` maps."""
    return _windowed(config, "cout")


def same_channels(config: Mapping[str, Scalar]) -> Tensors:
    """A window over each map: depthwise convolutions and pools."""
    return _windowed(config, "cin")


def deconv(config: Mapping[str, Scalar]) -> Tensors:
    """Each side ``s`` times as long."""
    out = integer(config, "hw") * integer(config, "s")
    return Tensors((_image(config),), ((integer(config, "batch"), integer(config, "cout"), out, out),))


def resize(config: Mapping[str, Scalar]) -> Tensors:
    """Each side ``scale`` times as long."""
    out = integer(config, "hw") * integer(config, "scale")
    return Tensors((_image(config),), ((integer(config, "batch"), integer(config, "cin"), out, out),))


def fc(config: Mapping[str, Scalar]) -> Tensors:
    """Features to features."""
    batch = integer(config, "batch")
    return Tensors(((batch, integer(config, "cin")),), ((batch, integer(config, "cout")),))


def global_pool(config: Mapping[str, Scalar]) -> Tensors:
    """One pixel of each map."""
    return Tensors((_image(config),), ((integer(config, "batch"), integer(config, "cin"), 1, 1),))


def image(config: Mapping[str, Scalar]) -> Tensors:
    """An image of the same size."""
    return Tensors((_image(config),), (_image(config),))


def two_images(config: Mapping[str, Scalar]) -> Tensors:
    """Two equal images to one."""
    return Tensors((_image(config), _image(config)), (_image(config),))


def mul(config: Mapping[str, Scalar]) -> Tensors:
    """An image and its factors: another image, or one number for each channel."""
    dims = _image(config)
    return Tensors((dims, dims if config["form"] == "image" else (*dims[:2], 1, 1)), (dims,))


def concat(config: Mapping[str, Scalar]) -> Tensors:
    """Two to four images to one; a channel count of 0 is an absent image."""
    counts = [integer(config, column) for column in ("cin1", "cin2", "cin3", "cin4")]
    inputs = tuple(_image(config, count) for count in counts if count > 0)
    return Tensors(inputs, (_image(config, sum(counts)),))


def split(config: Mapping[str, Scalar]) -> Tensors:
    """One image to ``parts`` equal ones."""
    parts = integer(config, "parts")
    return Tensors((_image(config),), (_image(config, integer(config, "cin") // parts),) * parts)


def patch_embed(config: Mapping[str, Scalar]) -> Tensors:
    """An image to one token for each patch of k x k pixels, row by row."""
    seq = (integer(config, "hw") // integer(config, "k")) ** 2
    return Tensors((_image(config),), ((integer(config, "batch"), seq, integer(config, "dim")),))


def tokens(config: Mapping[str, Scalar]) -> Tensors:
    """As many tokens of the same size."""
    return Tensors((_tokens(config, "dim"),), (_tokens(config, "dim"),))


def two_tokens(config: Mapping[str, Scalar]) -> Tensors:
    """Two equal sequences to one."""
    return Tensors((_tokens(config, "dim"),) * 2, (_tokens(config, "dim"),))


def linear(config: Mapping[str, Scalar]) -> Tensors:
    """As many tokens of another size."""
    return Tensors((_tokens(config, "cin"),), (_tokens(config, "cout"),))


def matmul(config: Mapping[str, Scalar]) -> Tensors:
    """batch x m x k times k x n (a weight) or batch x k x n (an input)."""
    batch, m, k, n = (integer(config, column) for column in ("batch", "m", "k", "n"))
    left, right = (batch, m, k), (batch, k, n)
    return Tensors((left,) if config["form"] == "weight" else (left, right), ((batch, m, n),))


def attention(config: Mapping[str, Scalar]) -> Tensors:
    """Queries, keys and values to tokens, each batch x seq x (heads * head_dim)."""
    dims = (integer(config, "batch"), integer(config, "seq"), integer(config, "heads") * integer(config, "head_dim"))
    return Tensors((dims, dims, dims), (dims,))


def token_mean(config: Mapping[str, Scalar]) -> Tensors:
    """All tokens of a sequence to one, batch x dim."""
    return Tensors((_tokens(config, "dim"),), ((integer(config, "batch"), integer(config, "dim")),))


def _windowed(config: Mapping[str, Scalar], channels: str) -> Tensors:
    out = output_hw(integer(config, "hw"), integer(config, "k"), integer(config, "s"))
    return Tensors((_image(config),), ((integer(config, "batch"), integer(config, channels), out, out),))


def _image(config: Mapping[str, Scalar], channels: int | None = None) -> Dims:
    hw = integer(config, "hw")
    return (integer(config, "batch"), integer(config, "cin") if channels is None else channels, hw, hw)


def _tokens(config: Mapping[str, Scalar], size: str) -> Dims:
    return (integer(config, "batch"), integer(config, "seq"), integer(config, size))
