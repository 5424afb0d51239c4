"""Which engines a host has, asked of a child each: what an engine's import does stays out of the agent."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from benchfarm_agent.processes import kill_group, start_child
from benchfarm_agent.runner_lines import plain_text
from benchfarm_core.boards import EngineOption, EngineReport
from benchfarm_engines.launch import launch_environment
from benchfarm_engines.registry import engine_names

PROBE_S: Final = 60.0


async def probe_engines(runner_argv: Callable[[str], Sequence[str]], scratch: Path) -> tuple[EngineReport, ...]:
    """One report per engine of the registry, unavailable ones with the reason. runner_argv: by the engine's name.

    Whoever cancels it is kept until each child has ended: what is left to a loop that closes complains of it.
    """
    async with asyncio.TaskGroup() as group:
        probes = [group.create_task(probe_engine(runner_argv(name), name, scratch)) for name in engine_names()]
    return tuple(probe.result() for probe in probes)


async def probe_engine(runner_argv: Sequence[str], name: str, scratch: Path) -> EngineReport:
    """What one engine says about itself; a child that dies, hangs or talks nonsense makes it unavailable."""
    environment = launch_environment(str(scratch))
    try:
        process = await start_child([*runner_argv, "--probe", name], env=environment, folder=scratch)
    except OSError as error:
        return unavailable(name, f"its interpreter cannot be started: {error.strerror}")
    try:
        output, errors = await asyncio.wait_for(process.communicate(b""), timeout=PROBE_S)
    except TimeoutError:
        return unavailable(name, f"its probe did not answer within {PROBE_S:.0f} s")
    finally:
        kill_group(process.pid)
        await process.wait()
    assert process.returncode is not None
    return read_probe(name, output, errors, process.returncode)


def read_probe(name: str, output: bytes, errors: bytes, returncode: int) -> EngineReport:
    """What a probe said, checked; one that died or talks nonsense makes the engine unavailable."""
    try:
        return _report(name, json.loads(output))
    except (ValueError, ValidationError, KeyError, TypeError):
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        return unavailable(name, f"its probe ended with code {returncode}: {' '.join(last)}")


def _report(name: str, answer: dict[str, Any]) -> EngineReport:
    return EngineReport(
        name=name,
        available=bool(answer["available"]),
        version=answer.get("version"),
        precisions=tuple(answer.get("precisions", ())),
        reason=str(answer.get("reason") or "")[:300],
        options=None if answer.get("options") is None else _options(answer["options"]),
        by_difference=answer.get("by_difference") is True,
    )


def _options(schemas: dict[str, dict[str, Any]]) -> dict[str, EngineOption]:
    """Checked: a set that could not be told apart in a platform key makes the engine unavailable."""
    return {
        name: EngineOption.model_validate({**schema, "meaning": plain_text(schema.get("meaning", ""))})
        for name, schema in dict(schemas).items()
    }


def unavailable(name: str, reason: str) -> EngineReport:
    """An engine that cannot be used, and why."""
    return EngineReport(name=name, available=False, reason=reason[:300])
