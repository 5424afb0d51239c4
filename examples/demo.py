"""The demo job: two models and 60 kernels on every fp32 platform of this host, from nothing to a table with evidence.

`make demo` runs it. It starts a farm of its own in a temporary folder (or in BENCHFARM_HOME), measures, shows that the
same job again is answered from what is stored, and stops everything. KEEP=1 keeps the farm up until Ctrl-C.
"""

import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

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
from benchfarm.commands.results_table import reasons, results_tables, tally_text
from benchfarm.commands.watching import watch
from benchfarm_core.boards import BoardState
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
POLL_S = 0.1


def main() -> int:
    """Run the demo; 0 when every platform has most of its results."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with _home(console) as home, FarmProcess(home) as farm, Client(farm.url, farm.admin_token) as client:
            console.print(f"A farm runs at {farm.url}")
            good = demonstrate(client, console)
            if os.environ.get("KEEP"):
                keep(farm, console)
    except (BenchfarmError, FarmError, TimeoutError) as error:
        console.print(f"demo: {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        return 130
    console.print("The farm is stopped.")
    return 0 if good else 1


def demonstrate(client: Client, console: Console) -> bool:
    """Measure, print, ask again. Whether every platform has most of its results: neighbours may spoil some."""
    keys = platforms(client)
    request = demo_job(keys)
    console.print(f"Submitting {len(request.workloads)} workloads on {len(keys)} platforms.")
    job = watch(client, client.submit(request).id, console, timeout_s=JOB_WITHIN_S)
    results = client.results(job.id)
    show(results, console)
    console.print(f"{job.device_s_spent:.0f} s of board time were spent.")
    ask_again(client, request, console)
    wanted = GOOD_SHARE * len(request.workloads)
    return len(results.by_platform) == len(keys) and all(
        len(r.measured) >= wanted for r in results.by_platform.values()
    )


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
