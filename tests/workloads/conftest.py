"""Uploads inspected by the real limited child."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.inspection import Inspection, inspect_upload

Inspect = Callable[..., Inspection]


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    """Writes an upload, inspects it, and checks that a refusal leaves nothing behind."""
    out_dir = tmp_path / "out"
    out_dir.mkdir()

    def run(content: bytes, **arguments: Any) -> Inspection:
        upload = tmp_path / "upload.onnx"
        upload.write_bytes(content)
        try:
            return inspect_upload(upload, out_dir=out_dir, **arguments)
        except InvalidRequest:
            assert list(out_dir.iterdir()) == []
            raise

    return run


def refused(inspect: Inspect, content: bytes, **arguments: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        inspect(content, **arguments)
    assert "Traceback" not in caught.value.detail
    return caught.value
