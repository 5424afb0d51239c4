"""The generated model zoo, without onnx."""

import math

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.operator_pairs import PAIR_MODEL
from benchfarm_workloads.columns import Config
from benchfarm_workloads.kernels import kernel_types
from benchfarm_workloads.layers import INPUT, Network
from benchfarm_workloads.models import model_recipe, model_recipes

MODELS = [recipe.name for recipe in model_recipes() if recipe.name != PAIR_MODEL]
BERT_WORDS = 30_522 * 128
BERT_TOKEN_TYPES = 2 * 128
BERT_POOLER = 128 * 128 + 128


def small(name: str) -> Config:
    """A quick configuration with ten classes."""
    return {"seq": 16, "classes": 10} if name == "bert_tiny" else {"hw": 80, "classes": 10}


def normalised_channels(network: Network) -> int:
    """Channels behind a convolution on a map; those on a pooled pixel are squeeze and excitation, with a bias."""
    convolutions = [layer for layer in network.layers if layer.type in ("conv-bn-act", "dwconv-bn-act")]
    return sum(layer.tensors.outputs[0][1] for layer in convolutions if layer.config["hw"] != 1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_large", 5_483_032),
        ("efficientnet_b0", 5_288_548),
        ("shufflenet_v2", 2_278_604),
    ],
)
def test_published_sizes(name: str, parameters: int) -> None:
    """torchvision counts two parameters per normalised channel; folding leaves one, the bias."""
    network = model_recipe(name).network({})
    assert network.cost().parameters == parameters - normalised_channels(network)


def test_published_sizes_without_normalisation_to_fold() -> None:
    assert model_recipe("squeezenet").cost({}).parameters == 1_235_496  # torchvision, squeezenet1_1
    class_token = 2 * 192  # the token and its position, of which timm's vit_tiny_patch16_224 has 5,717,416 with it
    assert model_recipe("vit_tiny").cost({}).parameters == 5_717_416 - class_token
    bert = model_recipe("bert_tiny").cost({"seq": 512, "classes": 2}).parameters
    classifier = 128 * 2 + 2
    assert bert - classifier == 4_385_920 - BERT_WORDS - BERT_TOKEN_TYPES - BERT_POOLER


@pytest.mark.parametrize(
    ("name", "multiply_adds", "tolerance"),
    [
        ("resnet18", 1.814e9, 0.01),
        ("mobilenet_v2", 0.301e9, 0.03),
        ("mobilenet_v3_large", 0.217e9, 0.03),
        ("efficientnet_b0", 0.386e9, 0.05),
        ("squeezenet", 0.349e9, 0.13),  # the original pads less
        ("shufflenet_v2", 0.145e9, 0.02),
        ("vit_tiny", 1.258e9, 0.01),
    ],
)
def test_published_arithmetic(name: str, multiply_adds: float, tolerance: float) -> None:
    """Published counts leave activations, sums and pools out; ours has them."""
    assert model_recipe(name).cost({}).flops == pytest.approx(2 * multiply_adds, rel=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_catalogue_kernels_that_fit_together(name: str) -> None:
    network = model_recipe(name).network(small(name))
    shapes = {INPUT: network.input_shape}
    for layer in network.layers:
        for source, wanted in zip(layer.sources, layer.tensors.inputs, strict=True):
            assert shapes[source] == wanted or (layer.type == "fc" and shapes[source] == (*wanted, 1, 1))
        shapes.update(zip(layer.outputs, layer.tensors.outputs, strict=True))
    assert shapes == network.shapes()
    assert math.prod(shapes[network.layers[-1].name]) == 10


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_computed_in_vain(name: str) -> None:
    network = model_recipe(name).network(small(name))
    made = {INPUT, *(output for layer in network.layers for output in layer.outputs)}
    assert made - {source for layer in network.layers for source in layer.sources} == {network.layers[-1].name}


def test_the_zoo_has_most_kernel_types() -> None:
    """What is left is not in these networks: it is measured alone."""
    used = {layer.type for name in MODELS for layer in model_recipe(name).network(small(name)).layers}
    absent = {kind.name for kind in kernel_types()} - used
    assert absent == {"avgpool", "act", "group-conv", "deconv-bn-act", "resize", "matmul", "softmax"}


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("bert_tiny", "vit_tiny")])
def test_any_image_size_in_range_works(name: str) -> None:
    recipe = model_recipe(name)
    for hw in (recipe.columns[0].low, 71, 95, 225):
        assert recipe.cost({"hw": hw}).flops > 0


def test_the_canonical_configuration_has_all_columns() -> None:
    assert model_recipe("resnet18").validate({"hw": 128}) == {"hw": 128, "batch": 1, "classes": 1000, "seed": 0}
    assert model_recipe("bert_tiny").validate({}) == {"seq": 128, "batch": 1, "classes": 2, "seed": 0}


def test_bad_requests_are_named() -> None:
    with pytest.raises(InvalidRequest, match="resnet18") as unknown:
        model_recipe("resnet19")
    assert unknown.value.code == "model_unknown"
    with pytest.raises(InvalidRequest, match="from 64 to 512") as outside:
        model_recipe("resnet18").validate({"hw": 1024})
    assert (outside.value.code, outside.value.field) == ("model_out_of_range", "config.hw")
    with pytest.raises(InvalidRequest, match="multiple of 16") as cut:
        model_recipe("vit_tiny").validate({"hw": 100})
    assert (cut.value.code, cut.value.field) == ("model_out_of_range", "config.hw")
