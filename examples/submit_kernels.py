"""Measure a few kernels with the SDK and print what is known about each number.

python examples/submit_kernels.py https://farm.example token.txt
"""

import sys
from pathlib import Path

from benchfarm import Client, JobView, KernelRequest, PlatformFilter, Precision

KERNELS = [
    KernelRequest(type="conv-bn-act", config={"hw": 56, "cin": cin, "cout": 64, "k": 3, "s": 1, "act": "relu"})
    for cin in (16, 32, 64)
]


def main(url: str, token_file: str) -> None:
    """Submit, wait, print."""
    with Client(url, Path(token_file).read_text().strip()) as farm:
        fp32 = PlatformFilter(precision=(Precision.FP32,))
        job = farm.submit(name="example", workloads=KERNELS, platforms=fp32, protocol={"name": "quick"})
        farm.wait(job.id, progress=print_progress)
        for item in farm.results(job.id):
            if item.summary is None:
                print(f"{item.label} on {item.platform}: {item.reason}")
                continue
            number = item.summary
            print(
                f"{item.label} on {item.platform}: {number.median_ms:.4f} ms "
                f"[{number.low_ms:.4f}, {number.high_ms:.4f}] grade {number.grade}, {number.clock_proof}"
            )


def print_progress(job: JobView) -> None:
    """One line per change."""
    print(f"{job.state}: {job.progress.succeeded} of {job.progress.total}")


if __name__ == "__main__":
    main(*sys.argv[1:])
