"""Finds or makes the runner for a board: the native binary of its processor, or the Python runner's archive."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from benchfarm_agent.boards.remote_runner import MissingRunner, NativeKit, PythonKit, RunnerKit
from benchfarm_agent.ports.interface import Port
from benchfarm_agent.python_kit import CannotPack, Interpreter, packed
from benchfarm_agent.state_dir import StateDir
from benchfarm_engines.native_build import find_runner

logger = logging.getLogger(__name__)

Kit = RunnerKit | MissingRunner

ASK_S: Final = 15.0
LOOK_EVERY_S: Final = 20.0
"""How often it is looked whether a runner that was missing is there."""
_NATIVE_ENGINES: Final = ("ncnn",)
_ABIS: Final = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_TELL: Final = (
    "import platform, sys; "
    "print('%d.%d' % sys.version_info[:2], platform.machine(), platform.libc_ver()[0] or 'unknown')"
)
_FIND: Final = """
for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9; do
    path=$(command -v "$name") && said=$("$path" -I -c "$1" 2>/dev/null) && echo "$path $said"
done
true
"""
_packing = asyncio.Lock()


def target_of_abi(abi: str) -> str | None:
    """What programs for a processor are built for, by the name that a board gives it."""
    return _ABIS.get(abi)


async def native_kit(state: StateDir, abi: str) -> Kit:
    """The native runner for a processor, as `uname -m` names it."""
    return await asyncio.to_thread(_native_kit, state.runners, abi)


def _native_kit(folder: Path, abi: str) -> Kit:
    target = target_of_abi(abi)
    if target is None:
        return MissingRunner(_NATIVE_ENGINES, f"there is no runner for {abi or 'an unknown processor'}")
    built = find_runner(folder, target)
    if built is None:
        advice = f"build one with `benchfarm agent runner build --target {target}`"
        return MissingRunner(_NATIVE_ENGINES, f"there is no runner of this version for {target}: {advice}")
    return NativeKit(built.path, built.sha256)


async def gone_or_mended(away: Awaitable[str], find: Callable[[], Awaitable[Kit]], kit: Kit) -> str:
    """Why a board is gone; one without a runner is taken up anew when there is one."""
    return await gone_or_anew(away, _mended(find)) if isinstance(kit, MissingRunner) else await away


async def gone_or_anew(away: Awaitable[str], anew: Awaitable[str]) -> str:
    """Why a board is gone, or why it is taken up anew, whichever is first. Raises what that one raises."""
    tasks = {asyncio.ensure_future(away), asyncio.ensure_future(anew)}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _mended(find: Callable[[], Awaitable[Kit]]) -> str:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if not isinstance(await find(), MissingRunner):
            return "there is a runner for it now"


async def python_kit(state: StateDir, port: Port, engines: tuple[str, ...]) -> Kit:
    """The Python runner for the interpreter that a board has; made once. Raises BoardUnreachable."""
    ran = await port.run(["sh", "-c", _FIND, "sh", _TELL], timeout_s=ASK_S)
    found = [Interpreter.of(line) for line in ran.stdout.decode(errors="replace").splitlines()]
    usable = [one for one in found if one is not None and one.is_usable]
    if not usable:
        has = ", ".join(one.version for one in found if one is not None) or "none"
        return MissingRunner(engines, f"the board needs Python 3.9 or newer with glibc, and has {has}")
    try:
        async with _packing:  # one at a time: the next board may want the same
            archive = await asyncio.to_thread(packed, state.runners, usable[0], engines)
    except CannotPack as error:
        logger.warning("no runner for %s: %s", port.name, error.detail)
        return MissingRunner(engines, error.detail)
    return PythonKit(archive.path, archive.check_sha256, python=usable[0].path, engines=engines)
