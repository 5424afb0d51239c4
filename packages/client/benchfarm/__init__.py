"""The Benchfarm SDK.

    with Client(url, token) as farm:
        job = farm.submit(workloads=[GeneratedModelRequest(name="mobilenet_v2")])
        farm.wait(job.id, progress=lambda seen: print(seen.progress))
        for item in farm.results(job.id).measured:
            print(item.platform, item.summary.median_ms)

Errors are the classes of `benchfarm_core.errors`.
"""

from benchfarm.client import Client
from benchfarm.latencies import Latencies
from benchfarm.latency_constraint import LatencyConstraint
from benchfarm.results import Results
from benchfarm.retries import Retries
from benchfarm.searches import Judged, Search
from benchfarm_core.comparing import Comparison, ComparisonVerdict
from benchfarm_core.errors import (
    BenchfarmError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from benchfarm_core.jobs import ItemState, ItemView, JobKind, JobRequest, JobState, JobView, PriorityClass, Progress
from benchfarm_core.latency import LatencyAnswer, OnMiss, Pin
from benchfarm_core.platforms import ClockProof, PlatformFilter, Precision
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.summaries import Grade, Summary
from benchfarm_core.winner_errors import WinnerErrors
from benchfarm_core.workloads import (
    ArchitectureRequest,
    GeneratedModelRequest,
    KernelListRequest,
    KernelRequest,
    ListedKernel,
    PairRequest,
    UploadRequest,
)

__all__ = [
    "ArchitectureRequest",
    "BenchfarmError",
    "Client",
    "ClockProof",
    "Comparison",
    "ComparisonVerdict",
    "Conflict",
    "Forbidden",
    "GeneratedModelRequest",
    "Grade",
    "InvalidRequest",
    "ItemState",
    "ItemView",
    "JobKind",
    "JobRequest",
    "JobState",
    "JobView",
    "Judged",
    "KernelListRequest",
    "KernelRequest",
    "Latencies",
    "LatencyAnswer",
    "LatencyConstraint",
    "ListedKernel",
    "NotFound",
    "OnMiss",
    "PairRequest",
    "Pin",
    "PlatformFilter",
    "Precision",
    "PriorityClass",
    "Progress",
    "ProtocolRequest",
    "QuotaExceeded",
    "Results",
    "Retries",
    "Search",
    "Summary",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UploadRequest",
    "WinnerErrors",
]
