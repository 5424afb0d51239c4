"""Transformers: AutoFormer (Chen et al. 2021, arXiv 2107.00651) on images, BERT (BERTPerf's space) on words."""

from typing import Final

from benchfarm_workloads.layers import INPUT
from benchfarm_workloads.sequence_layers import SequenceSketch, Tokens
from benchfarm_workloads.spaces.blocks import Block, Place, Plan, place, token_entry
from benchfarm_workloads.spaces.genes import Choices, Known, integer, integers, number, number_by, per_block
from benchfarm_workloads.spaces.once_for_all import CLASSES
from benchfarm_workloads.spaces.space import Space

_IMAGE: Final = 224
_PATCH: Final = 16
_PATCHES: Final = (_IMAGE // _PATCH) ** 2
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


_HEAD: Final = 1
"""The stage of what stands behind the layers."""


def _auto_former_blocks(genes: Known) -> list[Block]:
    """A block's genes are its heads and the ratio of its inner layer; that of the first is the size of a token."""
    dim = integer(genes, "embed_dim")
    at, behind = (place(stage, False, dim, _PATCHES) for stage in (0, _HEAD))
    layers = zip(integers(genes, "heads"), integers(genes, "mlp_ratio"), strict=True)
    return [(place(-1, False, 3, _IMAGE), dim), *((at, heads, ratio) for heads, ratio in layers), (behind,)]


def _auto_former_entry(block: Block) -> tuple[SequenceSketch, Tokens]:
    at: Place = block[0]
    shape = (1, 3, _IMAGE, _IMAGE) if at.stage < 0 else (1, at.hw, at.channels)
    return SequenceSketch("autoformer", shape), Tokens(INPUT, at.hw, at.channels)


def _auto_former_append(sketch: SequenceSketch, x: Tokens, block: Block) -> Tokens:
    at, *own = block
    if at.stage < 0:
        [dim] = own
        return sketch.pos_embed(sketch.patches(dim, _PATCH))
    if at.stage == _HEAD:
        return sketch.fc(sketch.mean(sketch.layernorm(x)), CLASSES)
    heads, ratio = own
    x = sketch.add(x, _attend(sketch, sketch.layernorm(x), heads * _HEAD_DIM, heads))
    return sketch.add(x, _mlp(sketch, sketch.layernorm(x), x.dim * ratio // 100))


def _bert_blocks(genes: Known) -> list[Block]:
    """A layer's genes are its heads and the size of its inner layer: all layers are the same."""
    size = (integer(genes, "hidden"), integer(genes, "seq"))
    first, layer, last = (place(stage, False, *size) for stage in (-1, 0, _HEAD))
    own = (integer(genes, "heads"), integer(genes, "intermediate"))
    return [(first,), *[(layer, *own)] * integer(genes, "layers"), (last,)]


def _bert_append(sketch: SequenceSketch, x: Tokens, block: Block) -> Tokens:
    at, *own = block
    if at.stage < 0:
        return sketch.layernorm(sketch.pos_embed(x))
    if at.stage == _HEAD:
        return sketch.linear(x, _SPAN)
    heads, inner = own
    x = sketch.layernorm(sketch.add(x, _attend(sketch, x, x.dim, heads)))
    return sketch.layernorm(sketch.add(x, _mlp(sketch, x, inner)))


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
    plan=Plan(_auto_former_blocks, _auto_former_entry, _auto_former_append),
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
    plan=Plan(_bert_blocks, token_entry("bert"), _bert_append),
)  # fmt: skip
