"""Builds the native runner of this machine's processor for the tests: `python -m tests.engines.native.build_runner`.

What it is compiled from is fetched from the package index; everything lies in `.benchfarm/native`, which may be kept
from one run to the next: a runner that is there already takes no time.
"""

import os
import platform
import sys
import time

from benchfarm_engines.native_build import CannotBuild, build_runner
from benchfarm_engines.native_packages import CannotFetch
from tests.engines.native.cache import CACHE

NOT_TO_BE_HAD = 3


def main() -> int:
    """Says what was built and how long that took, or in one sentence why nothing was.

    The exit code is `NOT_TO_BE_HAD` where the index does not give what it is made of: then its tests skip.
    """
    begun_s = time.monotonic()
    try:
        built = build_runner(platform.machine(), CACHE)
    except (CannotBuild, OSError) as error:
        sys.stderr.write(f"native runner: not built, so its tests and the phones that measure cannot run: {error}\n")
        return NOT_TO_BE_HAD if isinstance(error, CannotFetch) else 1
    took_s = time.monotonic() - begun_s
    size_mb = built.size_bytes / 1e6
    sys.stdout.write(
        f"native runner: {took_s:.0f} s on {os.cpu_count()} processors for {built.target}, {size_mb:.1f} MB, "
        f"{built.compiler}, ncnn {built.ncnn_version}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
