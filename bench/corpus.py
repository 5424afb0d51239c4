"""The evaluation corpus: measured once on this host's platforms, then judged from its rows without a farm.

python -m bench.corpus measure --keep DIR [--minutes N] [--platform ENGINE:PRECISION ...]
python -m bench.corpus tables [--settings known donor any-donor unseen mix curve]

`measure` goes on where the committed rows in bench/corpus_data stop, whichever machine brought them, and adds its own
there, in files of their own: commit these. DIR has the farm, whose clock times are normalised to. `tables` writes its
sections of docs/predictor.md from the committed rows alone.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, cast

from bench import corpus_measure, corpus_tables
from bench.corpus_generations import read
from bench.corpus_kept import Kept
from bench.corpus_plan import KINDS, Chosen
from bench.corpus_rows import DATA, PlatformCorpus, read_generations
from bench.report import command_run, write_section
from benchfarm_workloads.spaces import spaces

PREDICTOR: Final = Path(__file__).resolve().parents[1] / "docs" / "predictor.md"


def main() -> int:
    """Measure, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=DATA, help="the folder with the rows")
    commands = parser.add_subparsers(dest="command")
    _add_measure(commands.add_parser("measure", help="on a farm of its own"))
    _add_tables(commands.add_parser("tables", help="from the rows, without a farm"))
    given = parser.parse_args()
    if given.command == "measure":
        return _measure(given)
    # without a command, as `make bench` runs it
    return _tables(given if given.command else parser.parse_args([*sys.argv[1:], "tables"]))


def _add_measure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=Path, required=True, help="the farm's folder; the same one is the same clock")
    parser.add_argument("--minutes", type=float, default=30.0, help="no portion is begun that would end later")
    parser.add_argument("--platform", action="append", default=[], help="ENGINE:PRECISION; by default six of them")
    parser.add_argument("--kind", action="append", default=[], choices=KINDS, help="these lists alone, and the bridge")
    parser.add_argument(
        "--space", action="append", default=[], choices=[one.name for one in spaces()], help="lists of these alone"
    )
    parser.add_argument("--one-by-one", action="store_true", help="all of a platform before the next one")
    parser.add_argument("--train-s", type=float, default=60.0, help="of boards, for what teaches of one space")
    parser.add_argument("--kernels-s", type=float, default=20.0, help="of boards, for a space's kernels of one timing")


def _add_tables(parser: argparse.ArgumentParser) -> None:
    settings = tuple(corpus_tables.SETTINGS)
    parser.add_argument("--settings", nargs="+", choices=settings, default=settings)
    parser.add_argument("--output", type=Path, default=PREDICTOR)


def _measure(given: argparse.Namespace) -> int:
    limits = corpus_measure.Limits(given.minutes, given.train_s, given.kernels_s)
    try:
        kept = Kept(given.keep.absolute(), read_generations(given.rows))
        chosen = Chosen(tuple(given.kind), tuple(given.space), given.one_by_one)
        done = corpus_measure.measure(kept, given.platform, limits, given.rows, chosen)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{done} portions; the rows lie in {given.rows.name}")
    return 0


def _tables(given: argparse.Namespace) -> int:
    corpus = read(given.rows)
    if not corpus:
        print(f"no rows in {given.rows.name}: run `python -m bench.corpus measure` first; nothing is judged")
        return 0
    corpus_tables.print_sizes(corpus)
    missed = 0
    for setting in given.settings:
        title, table = corpus_tables.SETTINGS[setting]
        with one_thread():
            rows = table(corpus)
        if not rows:
            print(f"{title}: nothing to judge; which rows it takes, docs/predictor.md says")
        missed += sum(row.get("met") is False for row in rows)
        if rows:
            write_section(
                title, command_run(), rows, path=given.output, where=measured_on(corpus), by=measured_with(corpus)
            )
    return 1 if missed else 0


def one_thread() -> AbstractContextManager[object]:
    """As the process that trains: several threads would wait for each other over small matrices."""
    if find_spec("threadpoolctl") is None:
        return nullcontext()
    return cast(AbstractContextManager[object], import_module("threadpoolctl").threadpool_limits(1))


def measured_on(corpus: Sequence[PlatformCorpus]) -> str:
    """The machines and days of the rows: the tables may be made elsewhere and later."""
    sessions = [session for each in corpus for session in each.manifest.sessions]
    days = sorted({f"{datetime.fromtimestamp(one.began_unix_s, UTC):%Y-%m-%d}" for one in sessions})
    machines = "; ".join(dict.fromkeys(one.machine for one in sessions))
    return f"rows of {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}, {machines}"


def measured_with(corpus: Sequence[PlatformCorpus]) -> str:
    """The rules and the commits that the rows were measured with."""
    rules = sorted({each.manifest.rule_version for each in corpus})
    commits = dict.fromkeys(session.commit for each in corpus for session in each.manifest.sessions)
    return f"rules of version {', '.join(map(str, rules))}, commits {', '.join(commits)}"


if __name__ == "__main__":
    sys.exit(main())
