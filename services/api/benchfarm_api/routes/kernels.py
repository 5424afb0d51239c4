"""What can be generated: kernel types and models, each with columns, ranges and units."""

from collections.abc import Sequence

from benchfarm_api.routes import PageParameters, new_router, page_of
from benchfarm_core.jobs import Page
from benchfarm_core.views import GeneratedModelView, KernelColumn, KernelTypeView
from benchfarm_workloads.columns import Column
from benchfarm_workloads.kernels import CATALOGUE_VERSION, kernel_types
from benchfarm_workloads.models import ZOO_VERSION, model_recipes

router = new_router("kernels")


@router.get("/kernels")
async def list_kernels(page: PageParameters) -> Page[KernelTypeView]:
    """Every kernel type of the catalogue."""
    kinds = [
        KernelTypeView(
            type=kind.name,
            catalogue_version=CATALOGUE_VERSION,
            columns=_columns(kind.columns),
            rules=[rule.text for rule in kind.shape.rules],
        )
        for kind in kernel_types()
    ]
    return page_of(kinds, page)


@router.get("/generated-models")
async def list_generated_models(page: PageParameters) -> Page[GeneratedModelView]:
    """Every model that the farm makes itself, with seeded weights."""
    recipes = [
        GeneratedModelView(name=recipe.name, zoo_version=ZOO_VERSION, columns=_columns(recipe.columns))
        for recipe in model_recipes()
    ]
    return page_of(recipes, page)


def _columns(columns: Sequence[Column]) -> list[KernelColumn]:
    return [
        KernelColumn(
            name=column.name,
            unit=column.unit,
            low=None if column.choices else column.low,
            high=None if column.choices else column.high,
            choices=[str(choice) for choice in column.choices],
            meaning=column.meaning,
        )
        for column in columns
    ]
