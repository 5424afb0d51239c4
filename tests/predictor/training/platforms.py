"""Platforms that are made up: latencies by a formula, so that what a predictor should find is known."""

import json
from pathlib import Path

import numpy as np

from benchfarm_core.measurement_sets import KernelRows, MeasurementSet, SetPlatform
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.training.donors import Donor
from benchfarm_predictor.training.measured import Measured
from tests.predictor.rows import costs, drawn, noisy

TYPE = "conv-bn-act"
LANES = 16
NOISE = 0.01


def platform_ms(
    kernels: Kernels, speed: float = 1.0, bandwidth: float = 1.0, seed: int = 0, noise: float = NOISE
) -> Floats:
    """A roofline whose work is padded to whole lanes of output channels, with noise."""
    found = costs(kernels)
    padded = found.flops * np.ceil(found.width / LANES) * LANES / found.width
    return noisy(0.01 + np.maximum(padded / (5e7 * speed), found.total_bytes / (1e7 * bandwidth)), noise, seed)


def measured(count: int, seed: int = 0, **platform: float) -> Measured:
    """Distinct configurations on such a platform."""
    kernels = drawn(TYPE, count, seed)
    return Measured(kernels, platform_ms(kernels, **platform, seed=seed))


class Exact:
    """A model that knows the formula, without the noise."""

    kind = "exact"

    def predict(self, batch: Kernels) -> Floats:
        return platform_ms(batch, 0.8, 1.2, noise=0.0)


def donor(count: int, seed: int = 0) -> Donor:
    """Another platform, known by its formula; what it says of its own rows unseen is five percent off."""
    rows = measured(count, seed, speed=0.8, bandwidth=1.2)
    unseen_ms = noisy(Exact().predict(rows.kernels), 0.05, seed)
    return Donor("donor", Exact(), rows, unseen_ms)  # type: ignore[arg-type]


def set_of(rows: Measured, board_model: str = "made-up", kernel: str = TYPE) -> MeasurementSet:
    """The same rows as a measurement set of their numeric columns, all of a relu."""
    columns = tuple(name for name in rows.kernels.columns if name != "act")
    configs = tuple(zip(*(rows.kernels.column(name).astype(int).tolist() for name in columns), strict=True))
    platform = SetPlatform(
        board_model=board_model, engine="formula", precision="fp32", operating_point={}, source="a test", licence="none"
    )
    kept = KernelRows(
        type=kernel,
        given_as=kernel,
        columns=columns,
        fixed={"act": "relu"} if kernel == TYPE else {},
        configs=configs,
        latency_ms=tuple(rows.latency_ms.tolist()),
    )
    return MeasurementSet(platform=platform, kernels={kernel: kept}, rejected=())


def write_set(folder: Path, content: MeasurementSet) -> Path:
    """A measurement set as a folder, its kernel under the name `conv`."""
    folder.mkdir()
    (folder / "platform.json").write_text(content.platform.model_dump_json(exclude={"batch"}))
    [rows] = content.kernels.values()
    lines = [",".join((*rows.columns, "latency_ms"))]
    lines += [",".join(map(str, (*config, value))) for config, value in zip(rows.configs, rows.latency_ms, strict=True)]
    (folder / "conv.csv").write_text("\n".join(lines) + "\n")
    return folder


def document(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    return found
