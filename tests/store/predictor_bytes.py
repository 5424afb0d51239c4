"""Predictor files as the store sees them: a header that is read, and bytes behind it that are only kept."""

import json
from typing import Any

LINEAGE: dict[str, Any] = {"donors": ["donor"], "data_hash": "d" * 32, "rule_version": 6, "code_version": "0.1.0"}


def predictor_bytes(platform: str, subject: str = "fc", arrays: bytes = b"\0" * 64, **content: Any) -> bytes:
    """A file of that platform and subject; other `arrays` make another file."""
    header = {"kernel_type": subject, "platform": platform, "lineage": LINEAGE}
    ours = json.dumps({"format": 1, "header": header, "model": {}, "intervals": None, "trained": None} | content)
    outer = json.dumps({"__metadata__": {"benchfarm": ours}}).encode()
    return len(outer).to_bytes(8, "little") + outer + arrays
