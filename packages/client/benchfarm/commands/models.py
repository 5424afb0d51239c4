"""`benchfarm models`: uploaded models, and those that the farm generates."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from benchfarm.commands.kernel_parts import kernel_rows
from benchfarm.commands.kernels import column_rows
from benchfarm.commands.options import Dims, Ints
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import facts, table
from benchfarm.workload_text import parse_generated_model, parse_numbers
from benchfarm_core.views import ModelView

app = typer.Typer(help="Uploaded models, and those that the farm generates.", no_args_is_help=True)

ModelId = Annotated[str, typer.Argument(help="The model's id.")]


@app.command()
def upload(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An ONNX or a .tflite file.")],
    name: Annotated[str | None, typer.Option(help="A name for people; by default that of the file.")] = None,
    dim: Dims = None,
    ints: Ints = None,
    _json: Json = False,
) -> None:
    """Upload a model. It is inspected before the answer, which lists what stands in its way."""
    session = Session.of(context)
    with session.client() as client:
        numbers = {
            "dims": parse_numbers(dim or [], field="dims"),
            "ints": parse_numbers(ints or [], field="ints"),
        }
        model = client.upload_model(path, name=name, **numbers)
    if model.name != (name or path.name):
        session.say(f"you have these bytes already, as {model.name}: that name stays")
    session.show(model, lambda: _facts(model))


@app.command("list")
def list_models(context: typer.Context, _json: Json = False) -> None:
    """Your uploaded models."""
    session = Session.of(context)
    with session.client() as client:
        models = list(client.models())
    rows = [(m.id, m.name, m.format, m.opset, m.size_bytes, m.created_at) for m in models]
    session.show(models, lambda: table(("id", "name", "format", "opset", "bytes", "created"), rows))


@app.command()
def show(context: typer.Context, model_id: ModelId, _json: Json = False) -> None:
    """One uploaded model."""
    session = Session.of(context)
    with session.client() as client:
        model = client.model(model_id)
    session.show(model, lambda: _facts(model))


@app.command()
def kernels(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(help="The model's id, or a generated model: 'squeezenet hw=160'.")],
    platform: Annotated[str, typer.Option(help="The platform's id, key or alias.")],
    _json: Json = False,
) -> None:
    """A model's kernels on a platform: what its engine computes as one."""
    session = Session.of(context)
    asked = parse_generated_model(model_id)
    with session.client() as client:
        found = client.model_kernels(asked.name, platform, asked.config)
    if found.rules == "default":
        session.say("what this engine fuses was never measured: by default, a layer and its activation are one kernel")
    if found.rules == "other_board_model":
        session.say("what this engine fuses was measured on boards of another model only")
    if found.unknown:
        named = ", ".join(f"{one.count} {one.operator}" for one in found.unknown)
        session.say(f"not in the catalogue: {named}")
    names = ("kernel", "type", "configuration", "operators")
    session.show(found, lambda: table(names, kernel_rows(found.kernels)))


@app.command()
def delete(context: typer.Context, model_id: ModelId, _json: Json = False) -> None:
    """Forget an uploaded model. Its results stay."""
    session = Session.of(context)
    with session.client() as client:
        client.delete_model(model_id)
    session.show({"deleted": model_id}, lambda: f"deleted {model_id}")


@app.command()
def generated(context: typer.Context, _json: Json = False) -> None:
    """The models that the farm generates by recipe, with their columns."""
    session = Session.of(context)
    with session.client() as client:
        models = client.generated_models()
    rows = [(model.name, *row) for model in models for row in column_rows(model.columns)]
    session.show(models, lambda: table(("model", "column", "unit", "allowed", "meaning"), rows))


def _facts(model: ModelView) -> RenderableType:
    shown = model.model_dump(exclude={"graph", "inputs"})
    inputs = [f"{given.name} {given.dtype}{list(given.shape)}" for given in model.inputs]
    return facts({**shown, "inputs": inputs})
