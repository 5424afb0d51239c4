"""A converting child that does what its engine option says, instead of converting."""

import json
import os
import sys
import time
from pathlib import Path

limits = json.loads(sys.argv[-1])
began = Path(limits["writable"][0]) / "began"
for line in sys.stdin:
    question = json.loads(line)
    deed, out = question["options"]["deed"], Path(question["out"])
    answer: object = {"ok": True, "format": "odd", "edges": None}
    if deed == "die" or (deed == "die_once" and not began.exists()):
        began.touch()
        os.abort()
    if deed == "hang":
        time.sleep(600)  # wait: the agent ends it
    if deed == "symlink":
        out.symlink_to(question["artifact"])
    elif deed == "folder":
        out.mkdir()
    elif deed == "pipe":
        os.mkfifo(out)
    elif deed == "large":
        out.write_bytes(b"x" * 2000)
    elif deed != "absent":
        out.write_bytes(f"{os.getpid()} {bool(limits.get('strict'))}".encode())
    if deed == "edges":
        answer = {"ok": True, "format": "odd", "edges": {"inputs": [{"name": 7}], "outputs": []}}
    elif deed == "format":
        answer = {"ok": True, "format": "../odd", "edges": None}
    elif deed == "list":
        answer = ["ok"]
    elif deed == "refuse":
        out.with_suffix(".part").write_bytes(b"half")
        answer = {"ok": False, "code": "unsupported_operator", "detail": "\0 no Erf", "subject": "Erf\0\n"}
    print(json.dumps(answer), flush=True)
