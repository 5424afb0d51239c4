"""The generated model zoo: known networks with seeded weights, named by recipe and never by bytes.

ResNet stands here, networks for small devices in ``mobile_models``, transformers in ``transformer_models``, pairs of
operators in ``pair_models``. A change of a network's structure or weights needs a new ``ZOO_VERSION``; a new network
does not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.operator_pairs import PAIR_MODEL
from benchfarm_core.workloads import Cost, GeneratedModelWorkload
from benchfarm_workloads import mobile_models, pair_models, transformer_models
from benchfarm_workloads.columns import Column, Config, Rule, Scalar, Shape, integer
from benchfarm_workloads.layers import Feature, Network, Sketch, image_columns

ZOO_VERSION: Final = 2
"""1: weights that end a branch before a sum had the scale of all others."""


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """One generated model: its columns and how to lay out its network."""

    name: str
    summary: str
    shape: Shape
    layout: Callable[[Mapping[str, Scalar]], Network]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        return self.shape.columns

    def validate(self, config: Mapping[str, object]) -> Config:
        """The canonical configuration: all columns in order, defaults filled in.

        Raises:
            InvalidRequest: ``model_out_of_range`` with the column, its value and what is allowed.
        """
        return self.shape.canonical(config)

    def network(self, config: Mapping[str, object]) -> Network:
        """The layers of a valid configuration, each a catalogue kernel."""
        return self.layout(self.validate(config))

    def cost(self, config: Mapping[str, object]) -> Cost:
        """FLOPs, parameters and bytes by the conventions of ``costs``."""
        return self.network(config).cost()

    def workload(self, config: Mapping[str, object]) -> GeneratedModelWorkload:
        """The canonical workload of a configuration."""
        return GeneratedModelWorkload(zoo_version=ZOO_VERSION, name=self.name, config=self.validate(config))


def model_recipes() -> tuple[ModelRecipe, ...]:
    """All generated models of this zoo version."""
    return tuple(_ZOO.values())


def model_recipe(name: str) -> ModelRecipe:
    """The generated model of that name.

    Raises:
        InvalidRequest: ``model_unknown``.
    """
    if name not in _ZOO:
        known = ", ".join(_ZOO)
        raise InvalidRequest(f"no generated model {name[:40]!r}; there are {known}", code="model_unknown", field="name")
    return _ZOO[name]


def _resnet18(config: Mapping[str, Scalar]) -> Network:
    """ResNet-18: 8 basic blocks, 11.7 M parameters at 1000 classes."""
    sketch = Sketch("resnet18", *image_columns(config))
    x = sketch.conv(sketch.image(), 64, 7, s=2, act="relu")
    x = sketch.maxpool(x, 3, s=2)
    for cout, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = _basic_block(sketch, x, cout, stride)
        x = _basic_block(sketch, x, cout, 1)
    sketch.fc(sketch.global_avgpool(x), integer(config, "classes"))
    return sketch.finish()


def _basic_block(sketch: Sketch, x: Feature, cout: int, s: int) -> Feature:
    inner = sketch.conv(sketch.conv(x, cout, 3, s=s, act="relu"), cout, 3)
    shortcut = x if s == 1 and x.channels == cout else sketch.conv(x, cout, 1, s=s)
    return sketch.add(inner, shortcut, act="relu")


_BATCH: Final = Column("batch", "inputs", "inputs in one run", low=1, high=16, default=1)
_SEED: Final = Column("seed", "", "seed of the weights", low=0, high=2**32 - 1, default=0)
_IMAGE: Final = Column("hw", "pixels", "height and width of the image", low=64, high=512, default=224)
_WIDE_IMAGE: Final = replace(_IMAGE, low=65)
"""The last stage has windows of 5 pixels, which do not fit on 2."""

_WORDS: Final = Column("seq", "tokens", "tokens of one input", low=8, high=512, default=128)
_PATCHES: Final = Rule("hw", lambda c: integer(c, "hw") % 16 == 0, "hw must be a multiple of 16: patches are whole")

Layout = Callable[[Mapping[str, Scalar]], Network]


def _recipe(
    name: str, summary: str, layout: Layout, *rules: Rule, size: Column = _IMAGE, classes: int = 1000
) -> ModelRecipe:
    outputs = Column("classes", "classes", "outputs of the last layer", low=2, high=21_843, default=classes)
    shape = Shape(f"model {name}", (size, _BATCH, outputs, _SEED), rules, "model_out_of_range")
    return ModelRecipe(name, summary, shape, layout)


_PAIR_SHAPE: Final = Shape(
    f"model {PAIR_MODEL}", pair_models.PAIR_COLUMNS, (pair_models.PAIR_RULE,), "model_out_of_range"
)

_ZOO: Final[dict[str, ModelRecipe]] = {
    recipe.name: recipe
    for recipe in (
        _recipe("mobilenet_v2", "MobileNetV2 1.0, batch normalisation folded", mobile_models.mobilenet_v2),
        _recipe("resnet18", "ResNet-18, batch normalisation folded", _resnet18),
        _recipe("mobilenet_v3_large", "MobileNetV3-Large 1.0", mobile_models.mobilenet_v3_large, size=_WIDE_IMAGE),
        _recipe("efficientnet_b0", "EfficientNet-B0", mobile_models.efficientnet_b0, size=_WIDE_IMAGE),
        _recipe("squeezenet", "SqueezeNet 1.1", mobile_models.squeezenet),
        _recipe("shufflenet_v2", "ShuffleNetV2 1.0", mobile_models.shufflenet_v2),
        _recipe("vit_tiny", "ViT-Ti/16, mean of tokens to the classifier", transformer_models.vit_tiny, _PATCHES),
        _recipe("bert_tiny", "BERT-Tiny on embedded words", transformer_models.bert_tiny, size=_WORDS, classes=2),
        ModelRecipe(PAIR_MODEL, "two operators in a row, or one of them", _PAIR_SHAPE, pair_models.operator_pair),
    )
}
