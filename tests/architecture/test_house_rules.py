"""The tree obeys the house rules, and each rule speaks up on a small example of its breach."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest


def _load():
    path = Path(__file__).with_name("house_rules.py")
    spec = importlib.util.spec_from_file_location("house_rules", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house_rules"] = module
    spec.loader.exec_module(module)
    return module


house_rules = _load()


def test_the_tree_obeys(root):
    assert [str(finding) for finding in house_rules.findings(root)] == []


BREACHES = [
    ("file-name", "packages/core/benchfarm_core/utils.py", "x = 1\n"),
    ("file-name", "services/api/benchfarm_api/common/jobs.py", "x = 1\n"),
    ("file-length", "tests/core/test_long.py", "x = 1\n" * 501),
    ("function-length", "bench/long.py", "def f() -> None:\n" + "    x = 1\n" * 60),
    ("broad-except", "services/api/benchfarm_api/a.py", "try:\n    x = 1\nexcept:\n    x = 2\n"),
    ("broad-except", "tests/api/a.py", "try:\n    x = 1\nexcept (OSError, Exception) as e:\n    x = 2\n"),
    ("unsafe-call", "packages/store/benchfarm_store/a.py", "import pickle\n"),
    ("unsafe-call", "packages/store/benchfarm_store/a.py", "from joblib import load\n"),
    ("unsafe-call", "bench/a.py", "import numpy as np\nnp.load('x', allow_pickle=True)\n"),
    ("unsafe-call", "bench/a.py", "import subprocess\nsubprocess.run('x', shell=True)\n"),
    ("unsafe-call", "bench/a.py", "eval('1')\n"),
    ("environment", "packages/engines/benchfarm_engines/a.py", "import os\nhome = os.environ['HOME']\n"),
    ("star-import", "packages/core/benchfarm_core/a.py", "from os import *\n"),
    ("star-import", "packages/core/benchfarm_core/a.py", "from .jobs import x\n"),
    ("sql-text", "services/worker/benchfarm_worker/a.py", "q = 'select id from jobs'\n"),
    ("unit-suffix", "services/device-agent/benchfarm_agent/a.py", "class A:\n    timeout: float = 3\n"),
    ("unit-suffix", "packages/engines/benchfarm_engines/a.py", "def f(max_latency: float | None) -> None: ...\n"),
    ("core-clock", "packages/core/benchfarm_core/a.py", "from datetime import datetime\nnow = datetime.now()\n"),
    ("unfinished", "packages/core/benchfarm_core/a.py", "def f() -> None:\n    raise NotImplementedError\n"),
    ("fixed-wait", "tests/api/test_a.py", "import time\ntime.sleep(1)\n"),
    ("mock", "tests/api/test_a.py", "from unittest.mock import Mock\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES)
def test_a_breach_is_found(rule, path, text):
    source = house_rules.Source(path, text.splitlines(), ast.parse(text))
    broken = [name for name, check in house_rules.RULES.items() if list(check(source))]
    assert broken == [rule]


LAWFUL = [
    ("services/api/benchfarm_api/a.py", "try:\n    x = 1\nexcept Exception:  # boundary: the HTTP edge\n    x = 2\n"),
    ("services/api/benchfarm_api/main.py", "import os\nhome = os.environ['HOME']\n"),
    ("packages/store/benchfarm_store/a.py", "q = 'select id from jobs'\n"),
    ("services/api/benchfarm_api/a.py", "timeout_s: float = 3\nlatency_ms = 1.0\nmemory: str = 'much'\n"),
    ("tests/api/test_a.py", "import time\nwhile not done():\n    time.sleep(0.01)\n"),
    ("tests/agent/hangs.py", "import time\ntime.sleep(60)  # wait: this runner hangs\n"),
    ("bench/a.py", "import numpy as np\nnp.load('x', allow_pickle=False)\n"),
]


@pytest.mark.parametrize(("path", "text"), LAWFUL)
def test_what_is_lawful_passes(path, text):
    source = house_rules.Source(path, text.splitlines(), ast.parse(text))
    assert [name for name, check in house_rules.RULES.items() if list(check(source))] == []


def test_every_rule_has_an_example():
    assert {rule for rule, _, _ in BREACHES} == set(house_rules.RULES)


@pytest.mark.parametrize("word", [*house_rules.REGISTRIES, *house_rules.MACHINE_PATHS])
def test_a_foreign_word_is_found(tmp_path, word):
    (tmp_path / "README.md").write_text(f"see {word}x\n")
    assert [finding.rule for finding in house_rules.findings(tmp_path)] == ["foreign-word"]
