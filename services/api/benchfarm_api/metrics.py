"""Every metric of the API, in one typed list. Counts are of this process."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 30, 60)


@dataclass(frozen=True)
class Metrics:
    """The metrics, and the registry that prints them."""

    registry: CollectorRegistry
    requests: Counter
    request_s: Histogram
    parked_polls: Gauge
    open_streams: Gauge
    uploads: Counter
    hints_sent: Counter
    hints_lost: Counter
    wakeups_connected: Gauge
    predictors_bytes: Gauge

    def text(self) -> bytes:
        """The present values in the Prometheus text format."""
        return generate_latest(self.registry)


def create_metrics() -> Metrics:
    """A registry of its own, so that two applications in one process do not share counts."""
    own = CollectorRegistry()
    return Metrics(
        registry=own,
        requests=Counter("benchfarm_api_requests", "Requests answered", ("operation", "status"), registry=own),
        request_s=Histogram(
            "benchfarm_api_request_seconds",
            "From request to end of answer",
            ("operation",),
            buckets=LATENCY_BUCKETS_S,
            registry=own,
        ),
        parked_polls=Gauge("benchfarm_api_parked_polls", "Agents waiting for an offer", registry=own),
        open_streams=Gauge("benchfarm_api_open_streams", "Clients reading a job's events", registry=own),
        uploads=Counter("benchfarm_api_uploads", "Uploaded models by verdict", ("verdict",), registry=own),
        hints_sent=Counter("benchfarm_api_hints_sent", "Messages after a commit that reached the broker", registry=own),
        hints_lost=Counter("benchfarm_api_hints_lost", "Messages that did not; the sweep repeats them", registry=own),
        wakeups_connected=Gauge("benchfarm_api_wakeups_connected", "1 while Valkey's channels are heard", registry=own),
        predictors_bytes=Gauge("benchfarm_api_predictors_bytes", "What loaded predictors take, about", registry=own),
    )
