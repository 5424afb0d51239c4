"""PyTorch on the processor, fp32: a graph traced, frozen and rewritten for oneDNN."""

from typing import Final

import torch

from benchfarm_core.profilers import has_profiler
from benchfarm_engines.engine import Engine, OpenRequest, Session
from benchfarm_engines.engine_options import Option
from benchfarm_engines.torch_file import FORMAT
from benchfarm_engines.torch_session import TorchSession, set_up


class Torch:
    """Reads the farm's own graph files; see ``torch_file``. Off unless its package is installed: it is large."""

    name = "torch"
    formats = (FORMAT,)
    options: tuple[Option, ...] = ()
    profiles = has_profiler(name)

    def version(self) -> str:
        """The version of the installed wheel, without the build's label."""
        return str(torch.__version__).partition("+")[0]

    def precisions(self) -> tuple[str, ...]:
        """fp32 only."""
        return ("fp32",)

    def open(self, request: OpenRequest) -> Session:
        """Builds, traces and settles the graph. Raises EngineFailure."""
        set_up(request.threads)
        return TorchSession(request, "cpu")


ENGINE: Final[Engine] = Torch()
