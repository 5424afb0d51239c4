"""What workloads must output, computed by ONNX Runtime fp32 in a child."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchfarm_agent.kept_child import KeptChild, child_for_ours, child_for_stranger, take_answer
from benchfarm_core.failures import FailureCode
from benchfarm_engines.launch import ChildLimits, reference_argv

LIMIT_BYTES: Final = 256 * 1024**2
"""The largest reference; a child can write no larger file."""

Inputs = Sequence[dict[str, Any]]
"""As the runner contract has them."""


class ReferenceChild:
    """Kept alive for generated workloads; a stranger's graph gets one of its own."""

    def __init__(self, cache: Path) -> None:
        """It may read the cache's files."""
        self._strangers = cache / "strangers"
        self._one_stranger = asyncio.Lock()
        self._child = child_for_ours(
            _argv, readable=cache / "files", folder=cache / "references", lost=FailureCode.RUNNER_DIED
        )

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._child.pid

    async def close(self) -> None:
        """Ends the child."""
        await self._child.close()

    async def compute(
        self, artifact: Path, inputs: Inputs, *, edges: dict[str, Any] | None = None, stranger: bool = False
    ) -> bytes:
        """The outputs of an ONNX model for the workload's inputs, as an .npz file. Raises Unusable, OSError.

        edges: those of the model where it is a workload's quantised graph.
        """
        question = {"artifact": str(artifact), "inputs": list(inputs), "edges": edges}
        if not stranger:
            return await _asked(self._child, question)
        strangers = child_for_stranger(_argv, artifact, self._strangers, lost=FailureCode.RUNNER_DIED)
        async with self._one_stranger, strangers as child:
            return await _asked(child, question)


async def _asked(child: KeptChild, question: dict[str, Any]) -> bytes:
    _, out = await child.ask(question)
    return take_answer(out, limit_bytes=LIMIT_BYTES)


def _argv(limits: ChildLimits) -> list[str]:
    return reference_argv(**limits)
