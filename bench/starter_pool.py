"""The starter pool that ships with the project, made of the evaluation corpus' committed rows.

python -m bench.starter_pool [--rows DIR] [--out FILE] [--models N]

Of each platform the pool file has the rows that teach and the probes, and predictors that were fitted on these rows.
What judges is in no row and in no predictor. The same rows make the same bytes. A farm's own pool becomes a starter
pool by `benchfarm pool export`: BENCHFARM_STARTER_POOL names its file.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.corpus_cells import held_out
from bench.corpus_generations import read
from bench.corpus_rows import DATA, LICENCE, PlatformCorpus, Row, workload_of
from benchfarm_core.boards import is_single_use
from benchfarm_core.errors import TooLarge
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.pool_files import (
    POOL_FORMAT,
    PackedPredictor,
    PoolEntry,
    PoolManifest,
    open_entries,
    packed_rows,
    part_hash,
    write,
)
from benchfarm_core.pool_rows import pack
from benchfarm_core.predictor_headers import read_header
from benchfarm_core.predictors import WHOLE_MODEL, TrainingRows
from benchfarm_core.workloads import workload_id
from benchfarm_predictor import predictor_file
from benchfarm_store.starter_pool import FILE
from benchfarm_worker.fitting import Known, fit_or_why, kernel_types
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.own_kernels import OwnKernels

ORIGIN: Final = "benchfarm-corpus"
MODELS: Final = 60
"""Architectures of each space that go along; more of them teach a donor little."""
LEAST_ROWS: Final = 20


def main() -> int:
    """Make the file, look at it as a farm would, say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=DATA, help="the folder with the corpus' rows")
    parser.add_argument("--out", type=Path, default=FILE, help="the pool file; by default the one that ships")
    parser.add_argument("--models", type=int, default=MODELS, help="architectures of each space, at the most")
    given = parser.parse_args()
    corpus = read(given.rows)
    made = [one for each in corpus if (one := entry_of(each, given.models)) is not None]
    if not made:
        print(f"no platform in {given.rows.name} may lend {LEAST_ROWS} rows that teach: no starter pool is made")
        return 0
    try:
        data = pool_of(made)
    except TooLarge as error:
        print(f"{error.detail}; or fewer --models", file=sys.stderr)
        return 2
    given.out.write_bytes(data)
    for opened in open_entries(data, OwnKernels(), CATALOGUE_VERSION, predictor_file.read):
        subjects = ", ".join(opened.files) or "no predictor"
        print(f"{opened.entry.platform.key}: {opened.entry.rows.counts}, {subjects}")
    print(f"{given.out.name}: {len(data)} bytes, {len(made)} platforms")
    return 0


Made = tuple[PoolEntry, list[bytes]]
"""An entry with its parts."""


def pool_of(made: Sequence[Made]) -> bytes:
    """The pool file. Raises TooLarge."""
    entries = sorted((entry for entry, _ in made), key=lambda entry: entry.platform.key)
    manifest = PoolManifest(
        format=POOL_FORMAT, farm=ORIGIN, code_version=version("benchfarm-store")[:60], entries=tuple(entries)
    )
    return write(manifest, [part for _, parts in made for part in parts])


def entry_of(corpus: PlatformCorpus, models: int) -> Made | None:
    """A platform's rows and predictors; None of one with too few rows, and of one that lends to nobody."""
    if is_single_use(corpus.key):
        return None
    rows = corpus.training_rows(lent_rows(corpus, models))
    if len(rows.every) < LEAST_ROWS:
        return None
    part, size_bytes = pack(rows, CATALOGUE_VERSION)
    files = _predictors(rows)
    packed = (
        PackedPredictor(subject=subject, sha256=part_hash(file), lineage=read_header(file).lineage)
        for subject, file in sorted(files.items())
    )
    entry = PoolEntry(
        origin=ORIGIN,
        platform=parse_platform_key(corpus.key),
        licence=LICENCE,
        source=source_of(corpus),
        rows=packed_rows(rows, part, size_bytes),
        predictors=tuple(packed),
    )
    return entry, [part, *files.values()]


def lent_rows(corpus: PlatformCorpus, models: int) -> list[Row]:
    """Usable rows that teach, each workload and timing once; of each space the first so many architectures."""
    found: dict[tuple[str, str], Row] = {}
    for row in corpus.rows:
        if row.split != "train" or not row.is_usable or (row.kind == "train" and row.number >= models):
            continue
        found.setdefault((workload_id(workload_of(row)), row.timing), row)
    judging = held_out()
    return [row for (name, _), row in found.items() if name not in judging]


def source_of(corpus: PlatformCorpus) -> str:
    """Who measured, where, when and by which rules."""
    sessions = corpus.manifest.sessions
    newest = max(one.began_unix_s for one in sessions)
    commits = ", ".join(dict.fromkeys(one.commit for one in sessions))
    machines = "; ".join(dict.fromkeys(one.machine for one in sessions))
    said = f"evaluation corpus of {datetime.fromtimestamp(newest, UTC):%Y-%m-%d}, {machines}, commits {commits}"
    return f"{said}, rules {corpus.manifest.rule_version}"[:300]


def _predictors(rows: TrainingRows) -> dict[str, bytes]:
    """Predictor files by subject: of whole models, and of kernel types with enough rows."""
    known = Known.of(rows, held_out(), ())
    fits = {subject: fit_or_why(known, subject) for subject in (WHOLE_MODEL, *kernel_types(known))}
    return {subject: fit.file() for subject, fit in fits.items() if not isinstance(fit, str)}


if __name__ == "__main__":
    sys.exit(main())
