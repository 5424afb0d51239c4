"""Networks on sequences as chains of catalogue kernels: transformers, also those that begin with an image."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchfarm_workloads.columns import Scalar
from benchfarm_workloads.layers import INPUT, Layer, Network, append_layer
from benchfarm_workloads.tensors import Dims


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a layer hands on: its name, and how many tokens of which size."""

    source: str
    seq: int
    dim: int


@dataclass(slots=True)
class SequenceSketch:
    """Builds a network on a sequence layer by layer; every configuration is validated by the catalogue.

    ``input_shape`` is n x seq x dim, or n x c x hw x hw for one that starts with ``patches``.
    """

    name: str
    input_shape: Dims
    layers: list[Layer] = field(default_factory=list)

    def embeddings(self) -> Tokens:
        """The input, where it is a sequence."""
        _, seq, dim = self.input_shape
        return Tokens(INPUT, seq, dim)

    def patches(self, dim: int, k: int) -> Tokens:
        """The input, where it is an image: one token for each patch of k x k pixels."""
        _, channels, hw, _ = self.input_shape
        return self._append("patch-embed", {"hw": hw, "cin": channels, "dim": dim, "k": k}, INPUT)

    def pos_embed(self, x: Tokens) -> Tokens:
        """A learned vector added to each position."""
        return self._append("pos-embed", {"seq": x.seq, "dim": x.dim}, x.source)

    def layernorm(self, x: Tokens) -> Tokens:
        """Each token normalised."""
        return self._append("layernorm", {"seq": x.seq, "dim": x.dim}, x.source)

    def linear(self, x: Tokens, cout: int, *, act: str = "none") -> Tokens:
        """The same fully connected layer for every token."""
        return self._append("linear", {"seq": x.seq, "cin": x.dim, "cout": cout, "act": act}, x.source)

    def attention(self, query: Tokens, key: Tokens, value: Tokens, heads: int) -> Tokens:
        """Scaled dot products in ``heads`` heads."""
        config = {"seq": query.seq, "heads": heads, "head_dim": query.dim // heads}
        return self._append("attention", config, query.source, key.source, value.source)

    def gelu(self, x: Tokens) -> Tokens:
        """The activation of transformers."""
        return self._append("gelu", {"seq": x.seq, "dim": x.dim}, x.source)

    def add(self, x: Tokens, y: Tokens) -> Tokens:
        """The sum of two equal sequences."""
        return self._append("token-add", {"seq": x.seq, "dim": x.dim}, x.source, y.source)

    def mean(self, x: Tokens) -> Tokens:
        """All tokens to one."""
        return self._append("reduce-mean", {"seq": x.seq, "dim": x.dim}, x.source)

    def fc(self, x: Tokens, cout: int) -> Tokens:
        """A fully connected layer on the one token that ``mean`` leaves."""
        return self._append("fc", {"cin": x.dim, "cout": cout}, x.source)

    def finish(self) -> Network:
        """The network; its output is the last layer."""
        return Network(self.name, self.input_shape, tuple(self.layers))

    def _append(self, type_name: str, config: Mapping[str, Scalar], *sources: str) -> Tokens:
        [(name, dims)] = append_layer(self.layers, type_name, {**config, "batch": self.input_shape[0]}, *sources)
        return Tokens(name, dims[1] if len(dims) > 2 else 1, dims[-1])
