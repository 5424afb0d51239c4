"""The locks are complete on every Python that we support: nothing is resolved when they are installed."""

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LEFT_OUT = {
    "openvino-telemetry": "OpenVINO works without it and then contacts nobody",
    "portalocker": "ncnn fetches models with it, which nobody asks for",
    "pip": "every environment is made with one",
}
LEFT_OUT_OF_NCNN = {"tqdm", "requests", "certifi", "charset-normalizer", "idna", "urllib3"}
"""Beside portalocker, where nothing else asks for them."""
SUPPORTED = [
    {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.{patch}", "platform_machine": machine}
    for minor in (11, 12, 13, 14)
    for patch in range(20)
    for machine in ("x86_64", "aarch64")
]


@pytest.mark.parametrize("name", ["build", "client", "agent", "server", "runtime", "train", "dev"])
def test_a_lock_has_what_any_supported_python_needs(name: str, root: Path) -> None:
    locked = set(locked_names((root / f"requirements/{name}.txt").read_text()))
    assert {one: why for one, why in reached(root / f"requirements/{name}.in").items() if one not in locked} == {}


@pytest.mark.parametrize("name", ["litert", "mnn", "ncnn", "onnxruntime", "openvino"])
def test_an_engines_own_lock_is_complete_and_at_the_versions_of_our_tests(name: str, root: Path) -> None:
    lock = (root / f"services/device-agent/benchfarm_agent/locks/{name}.txt").read_text()
    wanted = set(reached(root / f"requirements/engine-{name}.in"))
    assert wanted - {*locked_names(lock)} == (LEFT_OUT_OF_NCNN if name == "ncnn" else set())
    pins = set(re.findall(r"^[\w.-]+==\S+", lock, re.MULTILINE))
    assert pins <= set(re.findall(r"^[\w.-]+==\S+", (root / "requirements/dev.txt").read_text(), re.MULTILINE))
    assert lock.count("--hash=sha256:") >= len(pins)


def test_what_trains_is_added_to_what_serves(root: Path) -> None:
    """The list `train` is installed over the server's, or over that of `benchfarm up`: they agree on every version. It
    alone brings what fits trees, which nothing that answers carries."""
    pins = {name: versions((root / f"requirements/{name}.txt").read_text()) for name in ("server", "runtime", "train")}
    for name in ("server", "runtime"):
        both = pins["train"].keys() & pins[name].keys()
        assert {one: pins["train"][one] for one in both} == {one: pins[name][one] for one in both}
        assert not {"scikit-learn", "scipy", "joblib", "torch"} & pins[name].keys()
    assert {"scikit-learn", "scipy", "joblib", "threadpoolctl"} <= pins["train"].keys()
    assert "torch" not in pins["train"]


def versions(lock: str) -> dict[str, str]:
    """By name the one version that a lock has of it."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)}


def locked_names(lock: str) -> list[str]:
    return [canonicalize_name(one) for one in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)]


def reached(source: Path) -> dict[str, str]:
    """Every package below the wishes of one file, less what is left out on purpose, with the wish that led to it."""
    wishes = [(source.name, wish) for wish in wishes_of(source)]
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while wishes:
        asker, wish = wishes.pop()
        name = canonicalize_name(wish.name)
        if name in LEFT_OUT:
            continue
        found.setdefault(name, f"{asker} asks for {wish}")
        news = {(name, extra) for extra in ("", *wish.extras)} - seen
        seen |= news
        wishes += [(name, below) for _, extra in news for below in wishes_below(name, extra)]
    return found


def wishes_of(source: Path) -> list[Requirement]:
    """The lines of an *.in file and of those that it includes."""
    wishes = []
    for line in source.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            wishes += wishes_of(source.with_name(text.removeprefix("-r ")))
        elif text:
            wishes.append(Requirement(text))
    return wishes


@cache
def wishes_below(name: str, extra: str) -> list[Requirement]:
    """What a package with this extra asks for on some supported Python; one that is not here asks for nothing."""
    try:
        wishes = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        return []
    return [wish for wish in wishes if wish.marker is None or _is_for_some(str(wish.marker), extra)]


@cache
def _is_for_some(marker: str, extra: str) -> bool:
    """Whether a marker, of which there are few different ones, holds on a supported Python."""
    found = Marker(marker)
    return any(found.evaluate({**python, "extra": extra}) for python in SUPPORTED)
