"""Transformers of the zoo. Projections, activations and sums are kernels of their own: in fusion engines differ."""

from collections.abc import Mapping
from typing import Final

from benchfarm_workloads.columns import Scalar, integer
from benchfarm_workloads.layers import Network, image_columns
from benchfarm_workloads.sequence_layers import SequenceSketch, Tokens

_MLP_RATIO: Final = 4
"""How many times wider the inner layer of each block is, in both papers."""

_BERT_TINY_DIM: Final = 128


def vit_tiny(config: Mapping[str, Scalar]) -> Network:
    """ViT-Ti/16 (DeiT-Ti: Touvron et al. 2021, arXiv 2012.12877, table 1): 12 blocks, 3 heads of 64, 5.7 M parameters.

    The mean of all tokens goes to the classifier in place of a class token (Beyer et al. 2022, arXiv 2205.01580).
    """
    batch, hw = image_columns(config)
    sketch = SequenceSketch("vit_tiny", (batch, 3, hw, hw))
    x = sketch.pos_embed(sketch.patches(192, 16))
    for _ in range(12):
        x = sketch.add(x, _attend(sketch, sketch.layernorm(x), heads=3))
        x = sketch.add(x, _mlp(sketch, sketch.layernorm(x)))
    sketch.fc(sketch.mean(sketch.layernorm(x)), integer(config, "classes"))
    return sketch.finish()


def bert_tiny(config: Mapping[str, Scalar]) -> Network:
    """BERT-Tiny (Turc et al. 2019, arXiv 1908.08962, table 1): 2 blocks, 2 heads of 64, 4.4 M parameters.

    The input is what the word table gives, batch x seq x 128: the table holds 3.9 M of the parameters and no
    arithmetic. The mean of all tokens goes to a classifier in place of the pooler. Normalised behind each sum.
    """
    sketch = SequenceSketch("bert_tiny", (integer(config, "batch"), integer(config, "seq"), _BERT_TINY_DIM))
    x = sketch.layernorm(sketch.pos_embed(sketch.embeddings()))
    for _ in range(2):
        x = sketch.layernorm(sketch.add(x, _attend(sketch, x, heads=2)))
        x = sketch.layernorm(sketch.add(x, _mlp(sketch, x)))
    sketch.fc(sketch.mean(x), integer(config, "classes"))
    return sketch.finish()


def _attend(sketch: SequenceSketch, x: Tokens, *, heads: int) -> Tokens:
    query, key, value = (sketch.linear(x, x.dim) for _ in range(3))
    return sketch.linear(sketch.attention(query, key, value, heads), x.dim)


def _mlp(sketch: SequenceSketch, x: Tokens) -> Tokens:
    return sketch.linear(sketch.gelu(sketch.linear(x, _MLP_RATIO * x.dim)), x.dim)
