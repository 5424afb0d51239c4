"""Workloads as a person types them: ``conv-bn-act hw=56 cin=64 cout=64 k=3 s=1 batch=1 act=relu``."""

from collections.abc import Iterable
from typing import Final

from benchfarm.calls import checked
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import ArchitectureRequest, GeneratedModelRequest, KernelRequest

MOST_DIGITS: Final = 18


def parse_kernel(text: str) -> KernelRequest:
    """A kernel: its type, then its columns. Raises InvalidRequest; whether the columns fit, the farm says."""
    name, config = _split(text, "kernel")
    return checked(KernelRequest, {"type": name, "config": config})


def parse_generated_model(text: str) -> GeneratedModelRequest:
    """A generated model: its name, then the columns that differ from its defaults. Raises InvalidRequest."""
    name, config = _split(text, "model")
    return checked(GeneratedModelRequest, {"name": name, "config": config})


def parse_architecture(text: str) -> ArchitectureRequest:
    """An architecture: its space, then its genes, lists with commas: ``bert layers=2 ...``. Raises InvalidRequest."""
    name, texts = _split(text, "architecture")
    genes = {gene: _gene(gene, str(values)) for gene, values in texts.items()}
    return checked(ArchitectureRequest, {"space": name, "genes": genes})


def _gene(name: str, text: str) -> int | list[int]:
    """``3`` is a number, ``3,4`` a list, ``3,`` a list of one."""
    parts = text.removesuffix(",").split(",")
    if not all(_is_number(part.removeprefix("-")) for part in parts):
        raise InvalidRequest(
            f"{name}={text[:40]} is no integer, and no list of integers with commas", field=f"genes.{name}"
        )
    return [int(part) for part in parts] if "," in text else int(text)


def parse_numbers(texts: Iterable[str], *, field: str) -> dict[str, int]:
    """Numbers by name: ``batch=1``. Raises InvalidRequest that names `field`."""
    numbers: dict[str, int] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not _is_number(number):
            raise InvalidRequest(f"{text!r} is no name=number", field=field)
        if name in numbers:
            raise InvalidRequest(f"{name!r} is given twice", field=field)
        numbers[name] = int(number)
    return numbers


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Labels of a job: ``purpose=baseline``. Raises InvalidRequest."""
    labels: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise InvalidRequest(f"{text!r} is no label; the form is name=value", field="labels")
        labels[name] = value
    return labels


def _split(text: str, noun: str) -> tuple[str, dict[str, int | str]]:
    head, *pairs = text.split() or [""]
    if not head or "=" in head:
        raise InvalidRequest(f"{text!r} names no {noun}; the form is: name column=value ...", field=noun)
    config: dict[str, int | str] = {}
    for pair in pairs:
        column, sign, value = pair.partition("=")
        if not column or not value or not sign:
            raise InvalidRequest(f"{pair!r} in {text!r} is no column=value", field=noun)
        if column in config:
            raise InvalidRequest(f"the column {column!r} is given twice in {text!r}", field=noun)
        config[column] = _scalar(value)
    return head, config


def _scalar(text: str) -> int | str:
    return int(text) if _is_number(text.removeprefix("-")) else text


def _is_number(text: str) -> bool:
    """Whether Python and the farm take the text as a number: Python itself refuses thousands of digits."""
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
