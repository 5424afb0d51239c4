"""PyTorch on an NVIDIA GPU, fp32 and fp16. Importable only where there is one."""

from typing import Final

from benchfarm_core.profilers import has_profiler
from benchfarm_engines.cuda_driver import require_gpu
from benchfarm_engines.engine import Engine, EngineUnavailable, OpenRequest, Session
from benchfarm_engines.engine_options import Option
from benchfarm_engines.torch_file import FORMAT

require_gpu()  # before the import below, which takes seconds and would give another reason

import torch  # noqa: E402

from benchfarm_engines.torch_session import TorchSession, set_up  # noqa: E402

if not torch.cuda.is_available():
    raise EngineUnavailable("the installed torch is built without CUDA, or for another driver")


class TorchCuda:
    """Reads the same files as ``torch``. One thread drives the GPU; a run ends when the GPU has ended it."""

    name = "torch_cuda"
    formats = (FORMAT,)
    options: tuple[Option, ...] = ()
    profiles = has_profiler(name)

    def version(self) -> str:
        """The version of the installed wheel, without the build's label."""
        return str(torch.__version__).partition("+")[0]

    def precisions(self) -> tuple[str, ...]:
        """fp32 with products in full fp32, and fp16."""
        return ("fp32", "fp16")

    def open(self, request: OpenRequest) -> Session:
        """Builds, traces and settles the graph on the first GPU. Raises EngineFailure."""
        set_up(request.threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False  # on by default, and not what fp32 means
        return TorchSession(request, "cuda")


ENGINE: Final[Engine] = TorchCuda()
