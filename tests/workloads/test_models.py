"""The generated model zoo, without onnx."""

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.models import model_recipe, model_recipes


def test_published_sizes() -> None:
    """torchvision counts two parameters per normalised channel; folding leaves one, the bias."""
    assert model_recipe("resnet18").cost({}).parameters == 11_689_512 - 4_800
    assert model_recipe("mobilenet_v2").cost({}).parameters == 3_504_872 - 17_056
    assert model_recipe("resnet18").cost({}).flops == pytest.approx(2 * 1.814e9, rel=0.01)
    assert model_recipe("mobilenet_v2").cost({}).flops == pytest.approx(2 * 0.301e9, rel=0.03)


@pytest.mark.parametrize("name", [recipe.name for recipe in model_recipes()])
def test_layers_are_catalogue_kernels_that_fit_together(name: str) -> None:
    network = model_recipe(name).network({"hw": 160, "classes": 10})
    seen = {"x"}
    for layer in network.layers:
        assert set(layer.sources) <= seen
        seen.add(layer.name)
    assert network.layers[-1].config["cout"] == 10


def test_any_image_size_in_range_works() -> None:
    for hw in (64, 65, 95, 225):
        assert model_recipe("resnet18").cost({"hw": hw}).flops > 0
        assert model_recipe("mobilenet_v2").cost({"hw": hw}).flops > 0


def test_the_canonical_configuration_has_all_columns() -> None:
    assert model_recipe("resnet18").validate({"hw": 128}) == {"hw": 128, "batch": 1, "classes": 1000, "seed": 0}


def test_bad_requests_are_named() -> None:
    with pytest.raises(InvalidRequest, match="resnet18") as unknown:
        model_recipe("resnet19")
    assert unknown.value.code == "model_unknown"
    with pytest.raises(InvalidRequest, match="from 64 to 512") as outside:
        model_recipe("resnet18").validate({"hw": 1024})
    assert (outside.value.code, outside.value.field) == ("model_out_of_range", "config.hw")
