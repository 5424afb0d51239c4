"""The demo: two models and 60 kernels on every fp32 platform of this host, then a predictor for one of them.

`make demo` runs it. It starts a farm of its own in a temporary folder (or in BENCHFARM_HOME), measures, shows that the
same job again is answered from what is stored, adapts one platform within seconds of board time, holds its predictions
against 20 architectures that nothing was learnt from, and stops everything. KEEP=1 keeps the farm up until Ctrl-C.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # the imports below take a moment; until `main` can take a Ctrl-C, it ends the demo without a word
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.markup import escape

from benchfarm import (
    BenchfarmError,
    Client,
    GeneratedModelRequest,
    JobRequest,
    JobView,
    KernelRequest,
    ProtocolRequest,
    Results,
)
from benchfarm.accuracy import Accuracy, measure_accuracy
from benchfarm.commands.adaptations import progress_text
from benchfarm.commands.evaluation import architectures_table, left_out_text, nearness_table
from benchfarm.commands.results_table import reasons, results_tables, tally_text
from benchfarm.commands.watching import watch
from benchfarm.durations import duration_text
from benchfarm_core.adapting import AdaptationRequest, AdaptationState, AdaptationView, DonorChoice
from benchfarm_core.boards import BoardState
from benchfarm_core.errors import Conflict
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_standalone.home import Home, HomeLock
from benchfarm_standalone.programs_dir import remove_programs_dir
from benchfarm_standalone.socket_dir import socket_dir_path
from benchfarm_workloads.draws import draw_mixed

PREFIX = "benchfarm-demo-"
ENGINES = ["onnxruntime", "openvino"]  # what `make demo` installs
SEED = 60
KERNELS = 60
BOARD_READY_WITHIN_S = 60.0
JOB_WITHIN_S = 900.0
STORED_WITHIN_S = 30.0
GOOD_SHARE = 0.8
ENVIRONMENT: Final = {"BENCHFARM_STARTER_POOL": "shipped", "BENCHFARM_RETRY_S": "1"}
"""Of its farm. What a neighbour spoils is tried again sooner than elsewhere: somebody sits before the screen."""
POLL_S = 0.1

ADAPTED_ENGINE: Final = "onnxruntime"
SPACE: Final = "ofa_mobilenet_v3"
WISH: Final = AdaptationRequest(
    budget_s=10, spaces=(SPACE,), holdouts=5, donors=DonorChoice.OTHER_FAMILIES, seed="demo"
)
ADAPTED_WITHIN_S: Final = 60.0
HELD_OUT: Final = 20
"""Architectures that are predicted, then measured twice."""
ENOUGH: Final = 15
"""Of fewer the demo says that they say little."""
MEASURED_WITHIN_S: Final = 30
"""For each of the two measurements of all of them."""


def main() -> int:
    """Run the demo; 0 when every platform has most of its results."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (
            _home(console) as home,
            FarmProcess(home, env=ENVIRONMENT) as farm,
            Client(farm.url, farm.admin_token) as client,
        ):
            console.print(f"A farm runs at {farm.url}")
            console.print(escape(f"Donors that come with it: {shipped_donors(client)}."))
            keys = platforms(client)
            good = demonstrate(client, keys, console)
            adapt_and_compare(client, adapted_platform(keys), console)
            if os.environ.get("KEEP"):
                keep(farm, console)
    except (BenchfarmError, FarmError, TimeoutError) as error:
        console.print(f"demo: {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        return 130
    console.print("The farm is stopped.")
    return 0 if good else 1


def shipped_donors(client: Client) -> str:
    """The platforms of the starter pool, by their keys."""
    return ", ".join(one.key for one in client.pool.list() if not one.is_own) or "none"


def demonstrate(client: Client, keys: list[str], console: Console) -> bool:
    """Measure, print, ask again. Whether every platform has most of its results: neighbours may spoil some."""
    request = demo_job(keys)
    console.print(f"Submitting {len(request.workloads)} workloads on {len(keys)} platforms.")
    job = watched(client, client.submit(request).id, console)
    results = client.results(job.id)
    show(results, console)
    console.print(f"{job.device_s_spent:.0f} s of board time were spent.")
    ask_again(client, request, console)
    wanted = GOOD_SHARE * len(request.workloads)
    return len(results.by_platform) == len(keys) and all(
        len(r.measured) >= wanted for r in results.by_platform.values()
    )


def watched(client: Client, job_id: str, console: Console) -> JobView:
    """A job at its end. Raises TimeoutError that says what boards wait for, and what becomes of what was measured."""
    home = os.environ.get("BENCHFARM_HOME")
    lost = "what was measured is lost with the demo's folder, and BENCHFARM_HOME=DIR make demo keeps it"
    after = f"what was measured is kept in {home}, and the next demo there goes on from it" if home else lost
    return watch(client, job_id, console, timeout_s=JOB_WITHIN_S, after=after)


def platforms(client: Client) -> list[str]:
    """The fp32 platforms of this host with the engines that every farm has, as soon as its agent has registered it."""
    give_up_at_s = time.monotonic() + BOARD_READY_WITHIN_S
    while not any(board.state == BoardState.IDLE for board in client.boards()):
        if time.monotonic() > give_up_at_s:
            raise TimeoutError(f"the local board was not ready within {BOARD_READY_WITHIN_S:g} s")
        time.sleep(POLL_S)
    return [platform.key for platform in client.platforms(engine=ENGINES, precision=["fp32"], threads=[1, 2])]


def demo_job(platform_keys: list[str]) -> JobRequest:
    """The same 62 workloads on every machine, as often as it is made."""
    models = [GeneratedModelRequest(name=name, config={"hw": 224, "batch": 1}) for name in ("mobilenet_v2", "resnet18")]
    kernels = [KernelRequest(type=kernel.type, config=kernel.config) for kernel in draw_mixed(SEED, KERNELS)]
    return JobRequest(
        name="demo",
        labels={"purpose": "demo"},
        workloads=(*models, *kernels),
        platforms=tuple(platform_keys),
        protocol=ProtocolRequest(name="kernel"),
    )


def show(results: Results, console: Console) -> None:
    """A table per platform, then the reasons of what could not be measured, counted."""
    console.print(results_tables(results))
    console.print(f"All platforms: {tally_text(results)}")
    for reason, count in reasons(results).most_common():
        console.print(escape(f"  {count} not measured: {reason}"))


def ask_again(client: Client, request: JobRequest, console: Console) -> None:
    """The same job once more: what is known and fresh is not measured again."""
    started_s = time.monotonic()
    job = client.submit(request)
    while (job.progress.planned or not job.progress.total) and time.monotonic() - started_s < STORED_WITHIN_S:
        job = client.job(job.id, wait_s=STORED_WITHIN_S)
    spent_s = time.monotonic() - started_s
    console.print(f"The same job again: {_known_text(job)} from stored measurements after {spent_s:.2f} s.")
    if job.progress.pending:
        console.print(f"The other {job.progress.pending} had no result good enough to reuse; they are cancelled here.")
        client.cancel(job.id)


def adapted_platform(keys: list[str]) -> str:
    """The one that gets a predictor: a single thread is disturbed least."""
    known = {key: parse_platform_key(key) for key in keys}
    return min(keys, key=lambda key: (known[key].engine.name != ADAPTED_ENGINE, known[key].operating_point.threads))


def adapt_and_compare(client: Client, platform: str, console: Console) -> None:
    """Make a predictor, then hold it against architectures that nothing was learnt from. What a busy machine leaves out
    is said, and is no failure of the demo."""
    console.print(f"\nAdapting {platform} within {WISH.budget_s:g} s of board time.")
    console.print("Whatever shares its board model and engine is hidden: no donor of its own family.")
    done = _adapted(client, platform, console)
    model = next((one for one in done.predictors if one.subject == WHOLE_MODEL and one.predictor_id), None)
    if done.state != AdaptationState.SUCCEEDED or model is None:
        why = done.reason or str(done.state)
        console.print(escape(f"No predictor of whole models came of it: {why}. {_too_busy()}"))
        return
    donors = ", ".join(done.donors) or _no_donors(client, platform)
    console.print(escape(f"Donors: {donors}."))
    spent, judged = duration_text(done.board_s), duration_text(done.holdout_board_s)
    console.print(escape(f"Predictors after {spent} of board time, {judged} of hold-outs beside it: {done.reason}."))
    compare(client, platform, f"held out from {done.id}", console)


def _no_donors(client: Client, platform: str) -> str:
    if any(client.pool.matrix(target=platform, subject=WHOLE_MODEL)):
        return "none, for the pool has no other family that is alike"
    return "none, for too few networks of the probe set were measured to tell whether any is alike"


def _adapted(client: Client, platform: str, console: Console) -> AdaptationView:
    """The adaptation at its end; one that takes too long is cancelled."""
    made = client.adaptations.start(platform, WISH)
    told = ""

    def tell(found: AdaptationView) -> None:
        nonlocal told
        stage = f"{found.state} {found.round}"
        if stage != told:
            told = stage
            console.print(escape(f"adaptation {found.id} {progress_text(found)}"))

    try:
        return client.adaptations.wait(made.id, progress=tell, timeout_s=ADAPTED_WITHIN_S)
    except TimeoutError:
        console.print(f"It is not done within {ADAPTED_WITHIN_S:g} s, and cancelled here.")
        with contextlib.suppress(Conflict):  # it has ended after all
            client.adaptations.cancel(made.id)
        return client.adaptations.get(made.id)


def compare(client: Client, platform: str, seed: str, console: Console) -> None:
    """Predicted beside measured, and beside that how near a second measurement comes."""
    console.print(f"{HELD_OUT} architectures of {SPACE} are predicted, then measured twice.")
    found = measure_accuracy(
        client,
        platform,
        SPACE,
        archs=HELD_OUT,
        seed=seed,
        wait=lambda job_id: watched(client, job_id, console),
        expires_in_s=MEASURED_WITHIN_S,
    )
    if found.architectures:
        console.print(architectures_table(found))
    if found.figures is not None:
        console.print(nearness_table(found.figures))
    console.print(escape(compared_text(found)))


def compared_text(found: Accuracy) -> str:
    """How many could be compared, and plainly so where a busy machine let that be too few."""
    count = len(found.architectures)
    told = f"{count} of {found.drawn} architectures could be measured well enough twice"
    if count == found.drawn:
        return f"{told}."
    told = f"{told}; left out: {left_out_text(found)}."
    return told if count >= ENOUGH else f"Only {told} {_too_busy()}"


def _too_busy() -> str:
    return "Mostly a machine that is too busy beside the demo does that: left alone, it gives more that is good enough."


def keep(farm: FarmProcess, console: Console) -> None:
    """Stay until Ctrl-C."""
    console.print(f"\nThe farm stays at {farm.url}; Ctrl-C stops it. In another terminal:")
    token_file = shlex.quote(str(farm.home.admin_token_file))
    console.print(escape(f"  benchfarm login {farm.url} --token-file {token_file}"), soft_wrap=True)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")


def _known_text(job: JobView) -> str:
    return f"{job.progress.known} of {job.progress.total}"


@contextmanager
def _home(console: Console) -> Iterator[Path]:
    """The folder of BENCHFARM_HOME, or one that is gone afterwards unless it tells why the farm did not start."""
    given = os.environ.get("BENCHFARM_HOME")
    if given:
        yield Path(given)
        return
    remove_abandoned(Path(tempfile.gettempdir()))
    folder, stays = Path(tempfile.mkdtemp(prefix=PREFIX)), False
    try:
        yield folder
    except FarmError:
        stays = True
        console.print(f"What the farm wrote stays in {folder} until the next demo.", soft_wrap=True)
        raise
    finally:
        if not stays:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders that killed or failed demos left: ours alone, and only where no farm holds the lock."""
    for folder in parent.glob(f"{PREFIX}*"):
        lock = HomeLock(Home(folder))
        with contextlib.suppress(FarmError, OSError):
            if not folder.is_symlink() and folder.stat().st_uid == os.geteuid() and (folder / "farm.lock").exists():
                lock.take()
                shutil.rmtree(socket_dir_path(folder), ignore_errors=True)
                remove_programs_dir(folder)
                shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _stop(number: int, _frame: object) -> NoReturn:
    """A polite request to end ends the farm as well."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
