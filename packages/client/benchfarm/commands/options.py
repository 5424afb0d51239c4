"""Options that several verbs share, and what they mean together."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import typer

from benchfarm.client import Client
from benchfarm.durations import parse_duration_s
from benchfarm.workload_text import parse_architecture, parse_generated_model, parse_kernel, parse_numbers
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.platforms import Precision
from benchfarm_core.workloads import ArchitectureRequest, GeneratedModelRequest, KernelRequest, UploadRequest

AnyRequest = KernelRequest | GeneratedModelRequest | ArchitectureRequest | UploadRequest

KERNEL_EXAMPLE = "conv-bn-act hw=56 cin=64 cout=64 k=3 s=1 batch=1"
ARCHITECTURE_EXAMPLE: Final = "bert layers=2 hidden=128 seq=64 intermediate=512 heads=2"

DIMS: Final = "--dim"
_HAS: Final = {"dims": "dimensions", "ints": "inputs"}
Dims = Annotated[
    list[str] | None, typer.Option(DIMS, help="A number for a dimension of the upload: batch=1. Repeatable.")
]
Ints = Annotated[
    list[str] | None,
    typer.Option(help="An input of the upload that takes integers below a limit: token_ids=30522. Repeatable."),
]
PLATFORM_HELP: Final = "A platform's id, key or alias; `platforms --help` says how a key names options."
Reason = Annotated[str, typer.Option(help="Why; stands in the board's history.")]


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """What to measure, or to ask about."""

    kernel: Annotated[
        list[str], typer.Option("--kernel", metavar="TEXT", help=f"A kernel: '{KERNEL_EXAMPLE}'. Repeatable.")
    ] = field(default_factory=list)
    model: Annotated[
        list[str], typer.Option("--model", metavar="TEXT", help="A generated model: 'mobilenet_v2 hw=224'. Repeatable.")
    ] = field(default_factory=list)
    architecture: Annotated[
        list[str],
        typer.Option(
            "--architecture",
            metavar="TEXT",
            help=f"A network of a search space, lists with commas: '{ARCHITECTURE_EXAMPLE}'. Repeatable.",
        ),
    ] = field(default_factory=list)
    model_id: Annotated[list[str], typer.Option(help="A model that was uploaded before. Repeatable.")] = field(
        default_factory=list
    )
    upload: Annotated[
        list[Path],
        typer.Option(exists=True, dir_okay=False, help="An ONNX or .tflite file, uploaded first. Repeatable."),
    ] = field(default_factory=list)
    dim: Annotated[
        list[str] | None,
        typer.Option(
            DIMS, help="A number for a dimension of all uploads: batch=1; of one: model.onnx:batch=1. Repeatable."
        ),
    ] = None
    ints: Annotated[
        list[str] | None,
        typer.Option(
            help="An input of all uploads that takes integers below a limit: token_ids=30522; of one: "
            "model.onnx:token_ids=30522. Repeatable."
        ),
    ] = None

    @property
    def labels(self) -> list[str]:
        """What the person typed, in the order of `requests`."""
        return [*self.kernel, *self.model, *self.architecture, *self.model_id, *map(str, self.upload)]

    def requests(self, client: Client) -> list[AnyRequest]:
        """The workloads in the order of `labels`. Files are uploaded only when all the texts are well-formed."""
        named: list[AnyRequest] = [parse_kernel(text) for text in self.kernel]
        named += [parse_generated_model(text) for text in self.model]
        named += [parse_architecture(text) for text in self.architecture]
        named += [UploadRequest(model_id=model_id) for model_id in self.model_id]
        paths = [str(path) for path in self.upload]
        dims = numbers_by_upload(self.dim or [], paths, field="dims")
        ints = numbers_by_upload(self.ints or [], paths, field="ints")
        return named + [uploaded(client, path, dims=dims[str(path)], ints=ints[str(path)]) for path in self.upload]


@dataclass(frozen=True, slots=True)
class PlatformOptions:
    """Which platforms, by their parts."""

    board_model: Annotated[list[str], typer.Option(help="Only this board model. Repeatable.")] = field(
        default_factory=list
    )
    engine: Annotated[list[str], typer.Option(help="Only this engine. Repeatable.")] = field(default_factory=list)
    precision: Annotated[list[Precision], typer.Option(help="Only this precision. Repeatable.")] = field(
        default_factory=list
    )
    threads: Annotated[list[int], typer.Option(min=1, help="Only so many threads. Repeatable.")] = field(
        default_factory=list
    )

    @property
    def filters(self) -> dict[str, list[Any]]:
        """The filters that were given."""
        every: dict[str, list[Any]] = {
            "board_model": self.board_model,
            "engine": self.engine,
            "precision": self.precision,
            "threads": self.threads,
        }
        return {name: values for name, values in every.items() if values}

    def wanted(self, names: list[str]) -> list[str] | dict[str, list[Any]] | None:
        """Platforms by name or by filter, for a request; None for neither. Raises InvalidRequest for both."""
        if names and self.filters:
            option = next(iter(self.filters)).replace("_", "-")
            raise InvalidRequest(f"--platform names platforms, so --{option} cannot choose", field="platforms")
        return names or self.filters or None


def uploaded(
    client: Client, path: Path, *, dims: Mapping[str, int], ints: Mapping[str, int] | None = None
) -> UploadRequest:
    """A file as a workload, uploaded first. Raises InvalidRequest, which names the file: it may be one of several."""
    try:
        return UploadRequest(model_id=client.upload_model(path, dims=dims, ints=ints).id)
    except InvalidRequest as error:
        if str(path) not in error.detail:
            error.detail = f"{path}: {error.detail}"
        raise


def numbers_by_upload(
    texts: Sequence[str], uploads: Collection[str], others: Collection[str] = (), *, field: Literal["dims", "ints"]
) -> dict[str, dict[str, int]]:
    """By upload its numbers for dimensions, or for inputs that take integers (`field`): those of all uploads
    (``batch=1``) and its own (``model.onnx:batch=1``).

    Whether a file has such a dimension or input, the farm says. `others` could be named too and are no uploads. Raises
    InvalidRequest for what is no number, what is given twice for an upload, and what no upload takes.
    """
    split = [(text, *_split(text, {*uploads, *others})) for text in texts]
    for text, named, _ in split:
        if not uploads or named in others:
            whose = "nothing" if named is None else f"{named} is no file: nothing"
            raise InvalidRequest(f"{text}: {whose} is uploaded that has {_HAS[field]}", field=field)
    return {
        upload: parse_numbers((number for _, named, number in split if named in (None, upload)), field=field)
        for upload in uploads
    }


def _split(text: str, names: Collection[str]) -> tuple[str | None, str]:
    """Which of the names a text begins with, and what stands behind it; None where it begins with none of them.

    Names of dimensions may have colons of their own.
    """
    for at in range(len(text) - 1, 0, -1):
        if text[at] == ":" and (named := str(Path(text[:at]))) in names:
            return named, text[at + 1 :]
    return None, text


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses are replaced by their fields: one option each."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}

    @wraps(function)
    def command(**given: Any) -> None:
        made = {
            name: kind(**{part.name: given.pop(part.name) for part in fields(kind)}) for name, kind in groups.items()
        }
        function(**given, **made)

    parameters = [
        parameter
        for name, own in signature(function).parameters.items()
        for parameter in (_options(groups[name]) if name in groups else [own.replace(annotation=hints[name])])
    ]
    listed = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    vars(command).update(
        __signature__=Signature(listed), __annotations__={parameter.name: parameter.annotation for parameter in listed}
    )
    return command


def _options(kind: type[Any]) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(part.name, Parameter.KEYWORD_ONLY, default=_default(part), annotation=hints[part.name])
        for part in fields(kind)
    ]


def _default(part: Field[Any]) -> Any:
    if part.default_factory is not MISSING:
        return part.default_factory()
    return Parameter.empty if part.default is MISSING else part.default


def seconds_of(text: str | None, option: str) -> int | None:
    """What a duration option says; None where it was not given. Raises InvalidRequest that names the option.

    Commands ask before they send anything: who mistypes a time has started nothing.
    """
    if text is None:
        return None
    with told_as_typed({option: option}):
        return parse_duration_s(text, field=option)


@contextmanager
def told_as_typed(options: Mapping[str, str]) -> Iterator[None]:
    """Refusals speak of the options that a person typed. options: each by the field of the request that it is."""
    try:
        yield
    except InvalidRequest as error:
        option = options.get(error.field or "")
        if option is None or error.field is None:
            raise
        if error.detail.startswith((f"{error.field}:", f"{error.field} is ")):
            error.detail = option + error.detail.removeprefix(error.field)
        elif option not in error.detail:
            error.detail = f"{option}: {error.detail}"
        error.field = option
        raise
