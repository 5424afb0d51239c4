"""Where each engine lives: in an environment of its own below the agent's folder, else beside the agent."""

import sys
from pathlib import Path

from benchfarm_engines.launch import runner_argv


class EngineEnvironments:
    """The environments that were there when it was made: one process measures with the same all its life."""

    def __init__(self, folder: Path) -> None:
        self.own_python = sys.executable
        self._folder = folder
        self._pythons = {path.parent.parent.name: str(path) for path in folder.glob("[!.]*/bin/python")}

    def python(self, engine: str) -> str:
        """The interpreter that has the engine."""
        return self._pythons.get(engine, self.own_python)

    def runner_argv(self, engine: str) -> list[str]:
        """The command of a runner that has the engine."""
        return runner_argv(self.python(engine))

    def own_folders(self) -> dict[str, Path]:
        """The environments of engines' own, by the engine's name."""
        return {name: self._folder / name for name in sorted(self._pythons)}

    def has_own(self, engine: str) -> bool:
        """Whether the engine has an environment of its own."""
        return engine in self._pythons
