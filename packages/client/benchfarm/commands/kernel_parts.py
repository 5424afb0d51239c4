"""The kernels of a model or an architecture as rows of a table."""

from collections.abc import Iterable, Iterator

from benchfarm_core.fusion import KernelPart, ModelKernel


def kernel_rows(kernels: Iterable[ModelKernel]) -> Iterator[tuple[int, str, str, list[str]]]:
    """Number, types, configurations and operators of what an engine computes as one."""
    for kernel in kernels:
        yield (
            kernel.kernel_no,
            " + ".join(part.type or "-" for part in kernel.parts),
            " + ".join(_columns(part) for part in kernel.parts),
            [operator for part in kernel.parts for operator in part.operators],
        )


def _columns(part: KernelPart) -> str:
    if part.config is None:
        return part.reason
    return " ".join(f"{name}={value}" for name, value in part.config.items())
