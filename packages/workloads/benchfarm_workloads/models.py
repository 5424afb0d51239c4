"""The generated model zoo: known networks with seeded weights, named by recipe and never by bytes.

A change of a network's structure or weights needs a new ``ZOO_VERSION``; a new network does not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import Cost, GeneratedModelWorkload
from benchfarm_workloads.columns import Column, Config, Scalar, Shape, integer
from benchfarm_workloads.layers import Feature, Network, Sketch, image_columns

ZOO_VERSION: Final = 1


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


def _mobilenet_v2(config: Mapping[str, Scalar]) -> Network:
    """MobileNetV2 1.0: 17 inverted residual blocks, 3.5 M parameters at 1000 classes."""
    sketch = Sketch("mobilenet_v2", *image_columns(config))
    x = sketch.conv(sketch.image(), 32, 3, s=2, act="relu6")
    for expansion, cout, repeats, stride in _MOBILENET_V2_STAGES:
        for index in range(repeats):
            x = _inverted_residual(sketch, x, expansion, cout, stride if index == 0 else 1)
    x = sketch.conv(x, 1280, 1, act="relu6")
    sketch.fc(sketch.global_avgpool(x), integer(config, "classes"))
    return sketch.finish()


_MOBILENET_V2_STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, repeats, first stride of each stage."""


def _inverted_residual(sketch: Sketch, x: Feature, expansion: int, cout: int, s: int) -> Feature:
    inner = sketch.conv(x, x.channels * expansion, 1, act="relu6") if expansion > 1 else x
    inner = sketch.conv(sketch.dwconv(inner, 3, s=s, act="relu6"), cout, 1)
    return sketch.add(x, inner) if s == 1 and x.channels == cout else inner


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


_COLUMNS: Final = (
    Column("hw", "pixels", "height and width of the image", low=64, high=512, default=224),
    Column("batch", "images", "images in one run", low=1, high=16, default=1),
    Column("classes", "classes", "outputs of the last layer", low=2, high=21_843, default=1000),
    Column("seed", "", "seed of the weights", low=0, high=2**32 - 1, default=0),
)


def _recipe(name: str, summary: str, layout: Callable[[Mapping[str, Scalar]], Network]) -> ModelRecipe:
    return ModelRecipe(name, summary, Shape(f"model {name}", _COLUMNS, (), "model_out_of_range"), layout)


_ZOO: Final[dict[str, ModelRecipe]] = {
    recipe.name: recipe
    for recipe in (
        _recipe("mobilenet_v2", "MobileNetV2 1.0, batch normalisation folded", _mobilenet_v2),
        _recipe("resnet18", "ResNet-18, batch normalisation folded", _resnet18),
    )
}
