"""An evolutionary search in OFA-MobileNetV3 under latency limits on several platforms at once, and its report.

python -m examples.nas_ofa https://farm.example token.txt --platform KEY --platform KEY=6.5,9 --report nas.html

THE ACCURACY IS MADE UP. `accuracy_proxy` says which of two networks is larger where it pays, no more; put your own
supernet or predictor in its place. The latencies are the farm's: predicted while the search goes on, and measured for
whoever wins. Winners were picked by what the predictor gets wrong, so it learns from those of some searches first; then
some of four more searches are measured, and the last one knows by how much they were off. Without limits of its own a
platform gets the quartiles of what random architectures take there.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import log2
from pathlib import Path
from statistics import median, quantiles

from benchfarm import Client, InvalidRequest, Judged, LatencyAnswer, LatencyConstraint, OnMiss, Search
from benchfarm_core.architectures import Architecture
from benchfarm_core.latency import Pin
from benchfarm_workloads.spaces import space
from examples.nas_report import Limit, Picked, Seen, write_report

SPACE = space("ofa_mobilenet_v3")
RESOLUTIONS = range(128, 225, 4)
STAGES, BLOCKS, DEPTHS, KERNELS, EXPANSIONS = 5, 4, (2, 3, 4), (3, 5, 7), (3, 4, 6)
RANDOM = 200
"""Random architectures by which limits are set, and FLOPs are likened to milliseconds."""
TAUGHT = 24
"""Winners, and who stands right behind them, of which the predictors learn from one search."""
ROUNDS, CHECKED = 4, 4
"""First searches, and how many winners of each are measured before the last one."""
ELITE_SHARE, MUTATED_SHARE, MUTATION = 0.25, 0.5, 0.1
"""As in Once-for-All (Cai et al. 2020): the best quarter breeds, half of its children are mutants, a tenth of a
mutant's places is drawn anew."""


@dataclass(frozen=True, slots=True)
class Genome:
    """A place for each block that there might be, so that any two can be crossed."""

    hw: int
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[int, ...]

    @classmethod
    def drawn(cls, rng: random.Random) -> "Genome":
        """Every choice as likely as any other."""
        blocks = range(STAGES * BLOCKS)
        return cls(
            rng.choice(RESOLUTIONS),
            tuple(rng.choice(DEPTHS) for _ in range(STAGES)),
            tuple(rng.choice(KERNELS) for _ in blocks),
            tuple(rng.choice(EXPANSIONS) for _ in blocks),
        )

    @property
    def architecture(self) -> Architecture:
        """Without the blocks that are not there."""
        there = [stage * BLOCKS + at for stage, depth in enumerate(self.depth) for at in range(depth)]
        kernel, expand = ([values[at] for at in there] for values in (self.kernel, self.expand))
        return SPACE.validate({"hw": self.hw, "depth": list(self.depth), "kernel": kernel, "expand": expand})

    def crossed(self, other: "Genome", rng: random.Random) -> "Genome":
        """Each place of one of both."""

        def either(mine: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(rng.choice(pair) for pair in zip(mine, theirs, strict=True))

        depth, kernel = either(self.depth, other.depth), either(self.kernel, other.kernel)
        return Genome(rng.choice((self.hw, other.hw)), depth, kernel, either(self.expand, other.expand))

    def mutated(self, rng: random.Random) -> "Genome":
        """Some places drawn anew."""
        fresh = Genome.drawn(rng)

        def some(mine: tuple[int, ...], drawn: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(new if rng.random() < MUTATION else old for old, new in zip(mine, drawn, strict=True))

        hw = fresh.hw if rng.random() < MUTATION else self.hw
        depth, kernel = some(self.depth, fresh.depth), some(self.kernel, fresh.kernel)
        return replace(self, hw=hw, depth=depth, kernel=kernel, expand=some(self.expand, fresh.expand))


def accuracy_proxy(genome: Genome) -> float:
    """NOT AN ACCURACY: a made-up number that grows with resolution, depth, windows and widths, the less so the more
    there is of them. It stands where the accuracy of your supernet's subnets belongs."""
    score = 60.0 + 8.0 * log2(genome.hw / 128)
    for stage, depth in enumerate(genome.depth):
        for at in range(depth):
            block = stage * BLOCKS + at
            width = log2(genome.expand[block] / 3)
            window = (genome.kernel[block] - 3) / 4
            score += (0.45 + 0.35 * width + 0.25 * window) / (1 + 0.35 * at) * (0.8 + 0.1 * stage)
    return score


@cache
def mflops(genome: Genome) -> float:
    """Of the whole network, in millions."""
    return SPACE.cost(genome.architecture).flops / 1e6


@dataclass(frozen=True, slots=True)
class Options:
    """How long to search, and for what."""

    population: int = 100
    generations: int = 50
    winners: int = 8
    tolerance: float = 0.1
    probability: float = 0.9
    seed: int = 1
    lessons: int = 2


@dataclass
class Found:
    """What a search has seen, by genome, and how it ranks them: a greater number is a better one."""

    seen: dict[Genome, Seen] = field(default_factory=dict)

    def best(self, count: int) -> list[Genome]:
        """Of those that meet the limits."""
        met = [genome for genome, one in self.seen.items() if one.is_met]
        return sorted(met, key=lambda genome: self.seen[genome].score, reverse=True)[:count]


Judge = Callable[[Sequence[Genome]], list[Seen]]


def evolve(judge: Judge, options: Options, rng: random.Random) -> Found:
    """A population after the other; whoever violates a limit stands behind all who do not."""
    found = Found()
    population = [Genome.drawn(rng) for _ in range(options.population)]
    for _ in range(options.generations):
        fresh = [genome for genome in dict.fromkeys(population) if genome not in found.seen]
        found.seen |= dict(zip(fresh, judge(fresh), strict=True))
        ranked = sorted(found.seen, key=lambda genome: found.seen[genome].rank, reverse=True)
        elite = ranked[: max(2, round(options.population * ELITE_SHARE))]
        population = [_child(elite, rng) for _ in range(options.population)]
    return found


def _child(elite: Sequence[Genome], rng: random.Random) -> Genome:
    if rng.random() < MUTATED_SHARE:
        return rng.choice(elite).mutated(rng)
    return rng.choice(elite).crossed(rng.choice(elite), rng)


def by_latency(search: Search) -> Judge:
    """What the farm says of architectures: one question for a generation."""

    def judge(genomes: Sequence[Genome]) -> list[Seen]:
        judged = search.judge([genome.architecture for genome in genomes])
        return [_seen(genome, one) for genome, one in zip(genomes, judged, strict=True)]

    return judge


def _seen(genome: Genome, judged: Judged) -> Seen:
    return Seen(accuracy_proxy(genome), mflops(genome), judged.latencies_ms, max(judged.violations))


def by_mflops(limit_mflops: float) -> Judge:
    """What a search does that takes FLOPs for latency."""
    return lambda genomes: [
        Seen(accuracy_proxy(one), mflops(one), (), mflops(one) / limit_mflops - 1) for one in genomes
    ]


def limits_of(farm: Client, wanted: Sequence[tuple[str, Sequence[float]]], options: Options) -> list[Limit]:
    """The limits of each search on all platforms, and the FLOPs that take as long on the slower half of random ones."""
    rng = random.Random(f"limits/{options.seed}")
    drawn = [Genome.drawn(rng) for _ in range(RANDOM)]
    names = [name for name, _ in wanted]
    found = farm.latency([one.architecture for one in drawn], names)
    for answer in found:
        if answer.error is not None:
            raise SystemExit(f"{answer.platform}: {answer.detail}")
    of_platform = [found.numbers(platform=key) for key in found.platforms]
    all_limits = [given or quantiles(taken, n=4) for (_, given), taken in zip(wanted, of_platform, strict=True)]
    rates = [median(mflops(one) / ms for one, ms in zip(drawn, taken, strict=True)) for taken in of_platform]
    made = []
    for limits_ms in zip(*all_limits, strict=True):
        reached = [rate * limit_ms for rate, limit_ms in zip(rates, limits_ms, strict=True)]
        made.append(Limit(tuple(names), found.platforms, limits_ms, min(reached)))
    return made


def search_once(
    farm: Client, limit: Limit, options: Options, wait: Callable[[str], object]
) -> tuple[Limit, list[Picked], Pin | None]:
    """Search under one limit of each platform, let predictors learn from winners, have other winners measured, search
    again knowing by how much they were off, look closer at the best, measure the winners and the rival's."""
    name = f"search/{options.seed}/{limit.limits_ms}"
    pairs = zip(limit.names, limit.limits_ms, strict=True)
    plain = Search(farm, [LatencyConstraint(name, limit_ms, options.probability) for name, limit_ms in pairs])
    first, asked = taught_by_winners(plain, options, name)
    search, checked = checked_by_winners(first, options, name, wait)
    found = evolve(by_latency(search), options, random.Random(name))
    rival = evolve(by_mflops(limit.mflops), options, random.Random(f"rival/{options.seed}"))
    nearly = found.best(3 * options.winners)
    closer, measured = look_closer(farm, nearly, search.constraints, options, wait)
    winners = [genome for genome, is_met in zip(nearly, closer, strict=True) if is_met][: options.winners]
    told = [(genome, "ours") for genome in winners] + [(genome, "FLOPs") for genome in rival.best(options.winners)]
    asked += first.questions + search.questions
    limit = replace(limit, asked=asked, checked=checked, measured=measured, seen=tuple(found.seen.values()))
    return limit, measured_picks(farm, limit, told, search, wait), search.pin


def taught_by_winners(search: Search, options: Options, name: str) -> tuple[Search, int]:
    """A search whose predictors learnt from winners of searches before it, and how many items these asked."""
    asked, known = 0, set[str]()
    for number in range(options.lessons):
        found = evolve(by_latency(search), options, random.Random(f"{name}/lesson {number}"))
        best = distinct(found.best(len(found.seen)), TAUGHT + len(known))
        best = [one for one in best if str(one.architecture.genes) not in known][:TAUGHT]
        if best:
            known |= {str(one.architecture.genes) for one in best}  # who was measured judges and teaches nobody again
            asked += search.questions
            search = search.taught([one.architecture for one in best])
            for lesson in search.lessons[-len(search.constraints) :]:
                print(f"{lesson.platform} learnt from winners: {lesson.reason}", file=sys.stderr)
    return search, asked


def checked_by_winners(first: Search, options: Options, name: str, wait: Callable[[str], object]) -> tuple[Search, int]:
    """The search that comes after some first ones, and how many measurements of their winners that took; the same one,
    and none, where too few were measured."""
    rounds = []
    for number in range(ROUNDS):
        found = evolve(by_latency(first), options, random.Random(f"{name}/{number}"))
        rounds.append([one.architecture for one in distinct(found.best(len(found.seen)), CHECKED)])
    try:
        search = first.checked(rounds, wait=wait)
    except InvalidRequest as refused:
        print(f"winners are not checked: {refused}", file=sys.stderr)
        return first, 0
    return search, sum(one.errors.measured for one in search.constraints if one.errors is not None)


def distinct(genomes: Iterable[Genome], count: int) -> list[Genome]:
    """The first so many architectures, each once: genes of blocks that are not there tell genomes apart, and many of
    the best are one architecture."""
    found: dict[tuple[object, ...], Genome] = {}
    for genome in genomes:
        if len(found) == count:
            break
        found.setdefault(tuple(genome.architecture.genes.values()), genome)
    return list(found.values())


def look_closer(
    farm: Client,
    nearly: Sequence[Genome],
    constraints: Sequence[LatencyConstraint],
    options: Options,
    wait: Callable[[str], object],
) -> tuple[list[bool], int]:
    """Confidence routing: of the best, whatever is predicted too vaguely is measured; who still meets the limits, and
    how many measurements that took."""
    if not nearly:
        return [], 0
    names = [constraint.platform for constraint in constraints]
    items = [one.architecture for one in nearly]
    asked = farm.latency(items, names, tolerance=options.tolerance, on_miss=OnMiss.MEASURE)
    queued = sum(one.queued + one.waiting for one in asked.measuring)
    for job_id in sorted({job_id for one in asked.measuring for job_id in one.jobs}):
        wait(job_id)
    judged = Search(farm, constraints).judge(items)
    # what is predicted met its limit by the search's own predictors, whose errors are known; they may be others by now
    return [all(map(_is_met, one.violations, one.answers)) for one in judged], queued


def _is_met(violation: float, answer: LatencyAnswer) -> bool:
    return violation <= 0 or answer.source == "predicted"


def measured_picks(
    farm: Client, limit: Limit, told: Sequence[tuple[Genome, str]], search: Search, wait: Callable[[str], object]
) -> list[Picked]:
    """What was predicted of some architectures when they were chosen, and what is measured of them."""
    if not told:
        return []
    items = [genome.architecture for genome, _ in told]
    before = farm.latency(items, limit.names, pin=search.pin)
    requests = [{"kind": "architecture", "space": one.space, "genes": one.genes} for one in items]
    # anew: who won because he was measured within the limit would be found there again
    wait(farm.submit(name="winners of a search", workloads=requests, platforms=list(limit.names), max_age_s=0).id)
    after = farm.latency(items, limit.names, on_miss=OnMiss.ERROR)
    made = []
    for number, (genome, chosen_by) in enumerate(told):
        pairs = zip(before.of_item(number), after.of_item(number), search.constraints, strict=True)
        for said, is_, constraint in pairs:
            is_predicted = said.source == "predicted"  # what was measured before the search says nothing of predictions
            made.append(
                Picked(
                    chosen_by=chosen_by,
                    platform=said.platform,
                    genes=" ".join(f"{name}={values}" for name, values in genome.architecture.genes.items()),
                    score=accuracy_proxy(genome),
                    mflops=mflops(genome),
                    limit_ms=constraint.limit_ms,
                    probability=constraint.probability_of(said),
                    predicted_ms=said.median_ms if is_predicted else None,
                    low_ms=said.low_ms if is_predicted else None,
                    high_ms=said.high_ms if is_predicted else None,
                    measured_ms=is_.normalised_ms if is_.normalised_ms is not None else is_.median_ms,
                )
            )
    return made


def run(
    farm: Client,
    platforms: Sequence[tuple[str, Sequence[float]]],
    options: Options,
    report: Path,
    wait: Callable[[str], object] | None = None,
) -> list[Picked]:
    """Every search, then the report. `wait`: until a job has ended."""
    limits, picked = [], []
    for limit in limits_of(farm, platforms, options):
        print(f"searching below {', '.join(f'{one:.3g} ms' for one in limit.limits_ms)}", file=sys.stderr)
        searched, found, _ = search_once(farm, limit, options, wait or farm.wait)
        limits.append(searched)
        picked += found
    write_report(report, limits, picked)
    return picked


def platform_of(text: str) -> tuple[str, tuple[float, ...]]:
    """``KEY`` or ``KEY=6.5,9``: a key may hold equals signs itself."""
    name, sign, numbers = text.rpartition("=")
    try:
        return (name, tuple(map(float, numbers.split(",")))) if sign else (text, ())
    except ValueError:
        return text, ()


def main() -> int:
    """Read the options and search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url")
    parser.add_argument("token_file", type=Path)
    parser.add_argument("--platform", action="append", required=True, type=platform_of, metavar="KEY[=MS,...]")
    for name, default in (("population", 100), ("generations", 50), ("winners", 8), ("seed", 1), ("lessons", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--probability", type=float, default=0.9)
    parser.add_argument("--report", type=Path, default=Path("nas.html"))
    given = vars(parser.parse_args())
    url, token_file, platforms, report = (given.pop(name) for name in ("url", "token_file", "platform", "report"))
    with Client(url, token_file.read_text().strip()) as farm:
        run(farm, platforms, Options(**given), report)
    print(f"written: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
