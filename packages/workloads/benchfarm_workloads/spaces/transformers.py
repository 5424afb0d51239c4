"""Transformers: AutoFormer (Chen et al. 2021, arXiv 2107.00651) on images, BERT (BERTPerf's space) on words."""

from typing import Final

from benchfarm_workloads.layers import Network
from benchfarm_workloads.sequence_layers import SequenceSketch, Tokens
from benchfarm_workloads.spaces.genes import Choices, Known, integer, integers, number, number_by, per_block
from benchfarm_workloads.spaces.once_for_all import CLASSES
from benchfarm_workloads.spaces.space import Space

_IMAGE: Final = 224
_PATCH: Final = 16
_HEAD_DIM: Final = 64

_BERT_CHOICES: Final[dict[int, tuple[Choices, Choices]]] = {
    128: ((512, 1024), (2, 4)),
    256: ((512, 1024, 1536), (2, 4, 8)),
    384: ((1024, 1536, 2048), (4, 6, 8, 12)),
    512: ((1536, 2048, 2560), (4, 8)),
    640: ((2048, 2560, 3072), (8, 10)),
    768: ((2560, 3072), (8, 12)),
}
"""Sizes of the inner layer and numbers of heads, by the size of a token."""

_SPAN: Final = 2
"""Where an answer begins and where it ends: two numbers for each token."""


def _auto_former(genes: Known) -> Network:
    sketch = SequenceSketch(AUTOFORMER.name, (1, 3, _IMAGE, _IMAGE))
    dim = integer(genes, "embed_dim")
    x = sketch.pos_embed(sketch.patches(dim, _PATCH))
    for heads, ratio in zip(integers(genes, "heads"), integers(genes, "mlp_ratio"), strict=True):
        x = sketch.add(x, _attend(sketch, sketch.layernorm(x), heads * _HEAD_DIM, heads))
        x = sketch.add(x, _mlp(sketch, sketch.layernorm(x), dim * ratio // 100))
    sketch.fc(sketch.mean(sketch.layernorm(x)), CLASSES)
    return sketch.finish()


def _bert(genes: Known) -> Network:
    hidden, heads = integer(genes, "hidden"), integer(genes, "heads")
    sketch = SequenceSketch(BERT.name, (1, integer(genes, "seq"), hidden))
    x = sketch.layernorm(sketch.pos_embed(sketch.embeddings()))
    for _ in range(integer(genes, "layers")):
        x = sketch.layernorm(sketch.add(x, _attend(sketch, x, hidden, heads)))
        x = sketch.layernorm(sketch.add(x, _mlp(sketch, x, integer(genes, "intermediate"))))
    sketch.linear(x, _SPAN)
    return sketch.finish()


def _attend(sketch: SequenceSketch, x: Tokens, inner: int, heads: int) -> Tokens:
    query, key, value = (sketch.linear(x, inner) for _ in range(3))
    return sketch.linear(sketch.attention(query, key, value, heads), x.dim)


def _mlp(sketch: SequenceSketch, x: Tokens, inner: int) -> Tokens:
    return sketch.linear(sketch.gelu(sketch.linear(x, inner)), x.dim)


def _depth(known: Known) -> int:
    return integer(known, "depth")


AUTOFORMER: Final = Space(
    name="autoformer",
    version=1,
    title="AutoFormer, supernet tiny",
    paper="AutoFormer, Chen et al., ICCV 2021, arXiv 2107.00651, and its repository",
    kept=(
        "supernet-tiny: depth, size of a token, and for each block its heads (64 numbers each, so that queries, keys"
        " and values have 64 times as many) and the ratio of its inner layer; 224 pixels in patches of 16; the mean"
        " of the tokens to the classifier, as the published commands have it"
    ),
    read="ratios are percents; projections, activations and sums are kernels of their own, which engines may fuse",
    left=(
        "the class token; positions relative to each other within attention, which the catalogue's attention has"
        " not; the supernets small and base, whose networks take 4 and 8 times as long"
    ),
    genes=(
        number("embed_dim", "features", "size of a token", (192, 216, 240)),
        number("depth", "blocks", "number of blocks", (12, 13, 14)),
        per_block("heads", "heads", "heads of each block", (3, 4), _depth, "for each of `depth` blocks"),
        per_block(
            "mlp_ratio", "percent", "inner layer of each block, of the size of a token", (350, 400), _depth,
            "for each of `depth` blocks",
        ),
    ),
    layout=_auto_former,
)  # fmt: skip

BERT: Final = Space(
    name="bert",
    version=1,
    title="BERT",
    paper="BERTPerf, Mozafari et al., SiPS 2022, and its repository; BERT: Devlin et al. 2019, arXiv 1810.04805",
    kept=(
        "layers L, size of a token H, tokens S, inner layer I and heads A; which I and A there are at which H, as in"
        " the 492 configurations of the repository; normalised behind each sum; two numbers for each token at the end,"
        " as for SQuAD"
    ),
    read=(
        "the input is what the word table gives, seq x hidden: the table holds no arithmetic; positions are added"
        " and normalised; projections, activations and sums are kernels of their own, which engines may fuse"
    ),
    left="S of 256, 384 and 512 and batches above 1: they are not measured here; the sum with the table of token types",
    genes=(
        number("layers", "layers", "L: encoder layers", range(1, 13)),
        number("hidden", "features", "H: size of a token", tuple(_BERT_CHOICES)),
        number("seq", "tokens", "S: tokens of one input", (64, 128)),
        number_by(
            "intermediate", "features", "I: size of the inner layer", "hidden",
            {hidden: sizes for hidden, (sizes, _) in _BERT_CHOICES.items()},
        ),
        number_by(
            "heads", "heads", "A: heads of each layer", "hidden",
            {hidden: heads for hidden, (_, heads) in _BERT_CHOICES.items()},
        ),
    ),
    layout=_bert,
)  # fmt: skip
