"""Files that engines open, made of workloads' ONNX graphs by a child in the environment where the engine lives."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.kept_child import (
    Argv,
    KeptChild,
    Unusable,
    child_for_ours,
    child_for_stranger,
    take_answer,
)
from benchfarm_core.failures import FailureCode
from benchfarm_core.platforms import Platform, Precision
from benchfarm_engines.conversion import activations_for, files_of, has_converter
from benchfarm_engines.engine_options import INT8_OPTIONS
from benchfarm_engines.launch import ChildLimits, converting_argv
from benchfarm_engines.launch_request import BadRequest, read_edges

LIMIT_BYTES: Final = 256 * 1024**2
"""The largest artifact; a child can write no larger file."""
_FORMAT: Final = re.compile(r"[a-z0-9_.-]{1,40}")
_LOST: Final = FailureCode.CONVERSION_FAILED
_INT8_NAMES: Final = frozenset(option.name for option in INT8_OPTIONS)


@dataclass(frozen=True)
class Source:
    """A graph to make an artifact of: an ONNX file, the workload's inputs, the file's edges. stranger: an upload."""

    artifact: Path
    inputs: tuple[dict[str, Any], ...]
    edges: dict[str, Any] | None = None
    stranger: bool = False


@dataclass(frozen=True)
class Made:
    """What a child made; `edges` as the runner contract has them."""

    content: bytes
    format: str
    edges: dict[str, Any] | None


class Conversions:
    """One kept-alive child per interpreter, and one per upload. Every method raises Unusable and OSError."""

    def __init__(self, cache: Path, environments: EngineEnvironments) -> None:
        """The children may read the cache's files."""
        self._cache = cache
        self._environments = environments
        self._children: dict[str, KeptChild] = {}
        self._one_stranger = asyncio.Lock()

    async def close(self) -> None:
        """Ends the children."""
        for child in self._children.values():
            await child.close()

    async def quantised(self, source: Source, platform: Platform) -> Made:
        """The int8 graph that every engine with the same int8 options and ``activations`` measures."""
        stored = {"activations": activations(platform)}
        return await self._make(source, self._environments.own_python, None, platform, int8_options(platform), stored)

    async def seen(self, source: Source, platform: Platform) -> Made:
        """Nothing of use, where the engine computes the graph's products in the platform's precision as it stands."""
        engine = {"opened_by": platform.engine.name}
        return await self._make(source, self._environments.own_python, None, platform, {}, engine)

    async def converted(self, source: Source, platform: Platform) -> Made:
        """The platform's own file."""
        writer, options = files_of(platform.engine.name), platform.engine.options
        return await self._make(source, self._environments.python(writer), writer, platform, options)

    async def _make(
        self,
        source: Source,
        python: str,
        engine: str | None,
        platform: Platform,
        options: Mapping[str, Any],
        more: Mapping[str, Any] | None = None,
    ) -> Made:
        question = {
            "engine": engine,
            "precision": str(platform.precision),
            "options": dict(options),
            "artifact": str(source.artifact),
            "inputs": list(source.inputs),
            "edges": source.edges,
            **(more or {}),
        }
        if not source.stranger:
            return await _asked(self._kept(python), question)
        strangers = self._cache / "strangers"
        async with (
            self._one_stranger,
            child_for_stranger(_argv(python), source.artifact, strangers, lost=_LOST) as child,
        ):
            return await _asked(child, question)

    def _kept(self, python: str) -> KeptChild:
        if python not in self._children:
            folder = self._cache / "conversions" / str(len(self._children))
            self._children[python] = child_for_ours(
                _argv(python), readable=self._cache / "files", folder=folder, lost=_LOST
            )
        return self._children[python]


def is_quantised(platform: Platform) -> bool:
    """Whether a platform's artifacts are made of the quantised graph."""
    return platform.precision is Precision.INT8


def is_converted(platform: Platform) -> bool:
    """Whether the engine opens files of its own; what is given as it is stays so."""
    return platform.precision is not Precision.AS_GIVEN and has_converter(platform.engine.name)


def is_opened_as_it_is(source: Source, platform: Platform) -> bool:
    """Whether a stranger's graph goes to the engine unchanged; what runs in its own types promises no others."""
    unchanged = not is_quantised(platform) and not is_converted(platform)
    return source.stranger and unchanged and platform.precision is not Precision.AS_GIVEN


def int8_options(platform: Platform) -> dict[str, Any]:
    """The options that the quantised graph depends on."""
    return {name: value for name, value in platform.engine.options.items() if name in _INT8_NAMES}


def activations(platform: Platform) -> str:
    """How the quantised graph stores 8 bits."""
    return activations_for(platform.engine.name)


async def _asked(child: KeptChild, question: dict[str, Any]) -> Made:
    answer, out = await child.ask(question)
    content = take_answer(out, limit_bytes=LIMIT_BYTES)
    named, edges = str(answer.get("format")), answer.get("edges")
    try:
        read_edges(edges)
    except BadRequest as error:
        raise Unusable(_LOST, f"the converter names edges that cannot be: {error}"[:300]) from error
    if not _FORMAT.fullmatch(named):
        raise Unusable(_LOST, "the converter names no format")
    return Made(content, named, edges)


def _argv(python: str) -> Argv:
    def argv(limits: ChildLimits) -> list[str]:
        return converting_argv(python, **limits)

    return argv
