"""`benchfarm bundle`: measurements for machines that reach nothing, packed into one file, and their results."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchfarm.calls import checked
from benchfarm.client import Client
from benchfarm.commands.options import ARCHITECTURE_EXAMPLE, KERNEL_EXAMPLE, grouped, seconds_of
from benchfarm.commands.output_files import check_file
from benchfarm.commands.session import Json, Session
from benchfarm.commands.tables import cell, facts, printable, table
from benchfarm.workload_text import parse_architecture, parse_generated_model, parse_kernel
from benchfarm_core.bundles import (
    FAILURE_CHARS,
    BundleContents,
    BundleFailure,
    BundleOrder,
    BundleRequest,
    BundleView,
)
from benchfarm_core.errors import BenchfarmError, InvalidRequest
from benchfarm_core.platforms import Precision
from benchfarm_core.workloads import ArchitectureRequest, GeneratedModelRequest, KernelRequest

app = typer.Typer(help="Measurements for machines that reach nothing. Operators only.", no_args_is_help=True)

BundleId = Annotated[str, typer.Argument(help="The bundle's id.")]


@dataclass(frozen=True, slots=True)
class BundledOptions:
    """What is packed: what waits on a platform, or workloads with how they run."""

    platform: Annotated[str | None, typer.Option(help="Pack what waits on this platform: its id, key or alias.")] = None
    kernel: Annotated[list[str], typer.Option(metavar="TEXT", help=f"A kernel: '{KERNEL_EXAMPLE}'. Repeatable.")] = (
        field(default_factory=list)
    )
    model: Annotated[
        list[str], typer.Option(metavar="TEXT", help="A generated model: 'mobilenet_v2 hw=224'. Repeatable.")
    ] = field(default_factory=list)
    architecture: Annotated[
        list[str], typer.Option(metavar="TEXT", help=f"An architecture: '{ARCHITECTURE_EXAMPLE}'. Repeatable.")
    ] = field(default_factory=list)
    engine: Annotated[str | None, typer.Option(help="The engine of the workloads.")] = None
    precision: Annotated[Precision | None, typer.Option(help="The precision of the workloads.")] = None
    option: Annotated[list[str], typer.Option(help="name=value of the engine. Repeatable.")] = field(
        default_factory=list
    )
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the workloads.")] = None
    repeats: Annotated[
        int | None, typer.Option(min=1, help="How often one run measures each workload; by default once.")
    ] = None
    protocol: Annotated[str | None, typer.Option(help="How to measure; by default that of what waits, or kernel.")] = (
        None
    )
    expires_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Results are taken in until then; 30 days by default.")
    ] = None

    def _workloads(self) -> list[KernelRequest | GeneratedModelRequest | ArchitectureRequest]:
        models, architectures = map(parse_generated_model, self.model), map(parse_architecture, self.architecture)
        return [*map(parse_kernel, self.kernel), *models, *architectures]

    def request_fields(self) -> dict[str, Any]:
        """The fields of a bundle request that were given."""
        wanted = {
            "platform": self.platform,
            "workloads": self._workloads() or None,
            "engine": self.engine,
            "precision": self.precision,
            "options": dict(map(_option, self.option)) or None,
            "threads": self.threads,
            "repeats": self.repeats,
            "protocol": {"name": self.protocol} if self.protocol else None,
            "expires_in_s": seconds_of(self.expires_in, "--expires-in"),
        }
        return {name: value for name, value in wanted.items() if value is not None}


@grouped
def create(
    context: typer.Context,
    bundled: BundledOptions,
    *,
    target: Annotated[str, typer.Option(help="The machine: linux-x86_64-cp312, linux-aarch64-cp311, ...")],
    out: Annotated[Path, typer.Option(help="The bundle's file; it must not exist.")],
    _json: Json = False,
) -> None:
    """Pack measurements, runner and packages into one file. Needs the agent's distribution on this machine."""
    session = Session.of(context)
    check_file(out, field="out")
    if out.exists():
        raise InvalidRequest(f"{out} is there already: choose another name", field="out")
    request = checked(BundleRequest, {"target": target, **bundled.request_fields()})
    with session.client(patient=True) as client:
        order = client.bundles.create(request)
        session.say(f"packing {len(order.items)} measurements as {order.bundle_id}")
        packed = _packed(order, out)
        if packed.contents is None:
            _tell_failure(session, client, order.bundle_id, packed.said)
            context.exit(packed.exit_code)
        view = client.bundles.seal(order.bundle_id, packed.contents)
    session.show(view, lambda: f"{out}: on the machine, python3 {out.name} run; then benchfarm bundle import")


app.command()(create)


class _Packed(NamedTuple):
    """How packing ended: what it packed, or None and the last that it said of why not."""

    exit_code: int
    contents: BundleContents | None
    said: str


def _packed(order: BundleOrder, out: Path) -> _Packed:
    """Let the agent's own command make the file: it brings what builds and converts models. What it says is told."""
    said = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "order.json"
        path.write_text(order.model_dump_json())
        argv = [sys.executable, "-m", "benchfarm", "agent", "pack", str(path), "--out", str(out)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # converters write to it too, and not all of them text
        with subprocess.Popen(argv, errors="replace", **pipes) as packing:
            assert packing.stdout is not None
            assert packing.stderr is not None
            for line in packing.stderr:
                sys.stderr.write(line)
                said = line.strip() or said
            sha256 = packing.stdout.read().strip()  # one line, which no pipe is too small for
    if packing.returncode != 0:
        return _Packed(packing.returncode, None, said or f"packing ended with exit code {packing.returncode}")
    return _Packed(0, checked(BundleContents, {"contents_sha256": sha256}), said)


def _tell_failure(session: Session, client: Client, bundle_id: str, said: str) -> None:
    """The farm shows why it was not packed. That it cannot be told must not hide the reason itself."""
    reason = printable(said.removeprefix("the bundle cannot be packed: "))[:FAILURE_CHARS]
    try:
        client.bundles.fail(bundle_id, BundleFailure(reason=reason))
    except BenchfarmError as error:
        session.say(f"the farm was not told that {bundle_id} is not packed: {error.detail}")


def _option(text: str) -> tuple[str, int | bool | str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidRequest(f"{text[:60]!r} is no option of an engine; the form is name=value", field="options")
    if value in ("true", "false"):
        return name, value == "true"
    return name, int(value) if value.removeprefix("-").isdecimal() else value


@app.command("import")
def import_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The results file that the bundle wrote.")],
    _json: Json = False,
) -> None:
    """Hand a bundle's results to the farm. A second time changes nothing."""
    session = Session.of(context)
    with session.client(patient=True) as client:
        found = list(client.bundles.import_results(file))
    rows = [
        (one.part, one.board_id, one.platform, one.results, one.completed, one.failed, one.repeated) for one in found
    ]
    names = ("part", "board", "platform", "results", "were wanted", "failed", "imported before")
    session.show(found, lambda: table(names, rows))


@app.command("list")
def list_bundles(context: typer.Context, _json: Json = False) -> None:
    """The farm's bundles, newest first."""
    session = Session.of(context)
    with session.client() as client:
        bundles = list(client.bundles.list())
    rows = [(b.id, b.target, b.engine, b.items, b.created_at, b.expires_at, _standing(b)) for b in bundles]
    names = ("id", "target", "engine", "measurements", "created", "good until", "results")
    session.show(bundles, lambda: table(names, rows))


def _standing(bundle: BundleView) -> str:
    if bundle.failure:
        return f"packing failed: {bundle.failure}"
    if bundle.contents_sha256 is None:
        return "never packed to its end"
    return f"{sum(run.results for run in bundle.runs)} of {len(bundle.runs)} runs" if bundle.runs else "none yet"


@app.command()
def show(context: typer.Context, bundle: BundleId, _json: Json = False) -> None:
    """One bundle and its runs."""
    session = Session.of(context)
    with session.client() as client:
        found = client.bundles.get(bundle)
    runs = [
        f"{run.run_id[:8]} on {run.board_id}: {run.results} results, {cell(run.imported_at)} by {run.author}"
        for run in found.runs
    ]
    session.show(found, lambda: facts({**found.model_dump(exclude={"runs"}), "runs": "\n".join(runs)}))
