"""The kept-alive child that computes what a generated workload must output. It never runs during a launch."""

import asyncio
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchfarm_agent.processes import kill_group, start_child
from benchfarm_core.failures import FailureCode
from benchfarm_engines.launch import launch_environment, reference_argv

ANSWER_S: Final = 120.0
MEMORY_BYTES: Final = 8 * 1024**3
"""Address space; what it really uses is a small part of it."""
CPU_S: Final = 24 * 3600


class Unusable(Exception):
    """A workload that cannot be prepared, with the failure that says why."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class ReferenceChild:
    """Started by the first question, and again whenever it has died."""

    def __init__(self, cache: Path, scratch: Path) -> None:
        """The child may read the cache's files and write to a folder beside them, where its outputs are taken."""
        self._artifacts = cache / "files"
        self._folder = cache / "references"
        self._scratch = scratch / "reference"
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def close(self) -> None:
        """Ends the child."""
        if self._process is not None:
            kill_group(self._process.pid)
            await self._process.wait()
            self._process = None

    async def compute(self, artifact: Path, inputs: Sequence[dict[str, Any]]) -> tuple[Path, str]:
        """The outputs of a model for its inputs: an .npz file, now the caller's, and its SHA-256. Raises Unusable."""
        out = self._folder / f"{secrets.token_hex(8)}.npz"
        question = {"artifact": str(artifact), "inputs": list(inputs), "out": str(out)}
        async with self._turn:
            answer = await self._ask(json.dumps(question).encode() + b"\n")
        if answer.get("ok") is not True:
            raise Unusable(_code(answer.get("code")), str(answer.get("detail", ""))[:300])
        return out, str(answer["sha256"])

    async def _ask(self, question: bytes) -> dict[str, Any]:
        """One question to the child; a second child is asked when the first has died, perhaps of something else."""
        try:
            return await self._exchange(question)
        except (OSError, ValueError):
            await self.close()
        try:
            return await self._exchange(question)
        except (OSError, ValueError) as error:
            await self.close()
            detail = f"the reference could not be computed: {error!r}"[:300]
            raise Unusable(FailureCode.RUNNER_DIED, detail) from error

    async def _exchange(self, question: bytes) -> dict[str, Any]:
        process = await self._alive()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(question)
        await process.stdin.drain()
        answer = json.loads(await asyncio.wait_for(process.stdout.readline(), timeout=ANSWER_S))
        if not isinstance(answer, dict):
            raise ValueError("the answer is no JSON object")
        return answer

    async def _alive(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            for folder in (self._artifacts, self._folder, self._scratch):
                folder.mkdir(parents=True, exist_ok=True)
            argv = reference_argv(
                memory_bytes=MEMORY_BYTES,
                cpu_s=CPU_S,
                readable=[str(self._artifacts)],
                writable=[str(self._folder), str(self._scratch)],
            )
            environment = launch_environment(str(self._scratch))
            self._process = await start_child(argv, env=environment, folder=self._scratch, hear_errors=False)
        return self._process


def _code(text: object) -> FailureCode:
    try:
        return FailureCode(str(text))
    except ValueError:
        return FailureCode.ENGINE_ERROR
