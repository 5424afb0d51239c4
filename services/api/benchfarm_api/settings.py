"""What the API must be told, read once in `__main__`."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchfarm_core.leases import LeaseTimes


class Settings(BaseSettings):
    """From the environment. Addresses and the data folder have no default."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    database_url: str
    """PostgreSQL 18, in SQLAlchemy's form."""
    redis_url: str
    """Valkey or Redis, in redis-py's form; carries hints only."""
    benchfarm_data_dir: Path
    """Folder of the stored files: uploads, references."""

    benchfarm_api_host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback only with TLS or behind a TLS proxy."""
    benchfarm_api_port: int = Field(default=8650, ge=0, le=65_535)
    """Port to listen on; 0 for any free one."""
    benchfarm_api_fd: int | None = Field(default=None, ge=0)
    """A listening socket that the parent process holds; used instead of host and port."""
    benchfarm_behind_tls_proxy: bool = False
    """Says that a TLS proxy stands in front, so that listening beyond loopback is allowed."""
    benchfarm_tls_certificate: Path | None = None
    """Certificate chain, PEM, to serve TLS without a proxy."""
    benchfarm_tls_key: Path | None = None
    """The private key of the certificate, PEM."""

    benchfarm_api_threads: int = Field(default=12, ge=2, le=200)
    """Requests worked on at once; each has a connection to Postgres."""
    benchfarm_waiting_threads: int = Field(default=2, ge=1, le=50)
    """The same for the looks of requests that wait: a thousand polls that wake together delay nobody else."""
    benchfarm_upload_limit_bytes: int = Field(default=512 * 2**20, ge=1)
    """The largest model that is received."""
    benchfarm_upload_stall_s: float = Field(default=30.0, gt=0)
    """An upload that sends nothing for this long is given up."""
    benchfarm_upload_min_bytes_per_s: int = Field(default=32 * 1024, ge=1)
    """An upload that comes more slowly than this, from its start on, is given up."""
    benchfarm_upload_grace_s: float = Field(default=30.0, gt=0)
    """How long an upload may take before its rate is looked at."""
    benchfarm_uploads_at_once: int = Field(default=8, ge=1)
    """Uploads received at the same time; more wait their turn."""
    benchfarm_inspections_at_once: int = Field(default=2, ge=1)
    """Uploads opened at the same time, each in its own limited child."""
    benchfarm_inspection_wait_s: float = Field(default=60.0, gt=0)
    """How long an upload waits for its turn to be received or inspected."""
    benchfarm_predictors_bytes: int = Field(default=48 * 2**20, ge=0)
    """Predictors are kept in memory up to this; above it the least recently used are read anew when asked."""
    benchfarm_asked_budget_s: float = Field(default=3600.0, ge=0)
    """Device-seconds that the latency questions of one token may have queued in a day (`on_miss: measure`)."""
    benchfarm_answer_stall_s: float = Field(default=30.0, gt=0)
    """An answer whose reader takes nothing of it for this long is given up, and the connection cut within
    twice that."""
    benchfarm_heartbeat_s: float = Field(default=15.0, gt=0)
    """Event streams say that they are alive this often."""
    benchfarm_longest_stream_s: float = Field(default=3600.0, gt=0)
    """An event stream is ended after this time; its reader takes it up again with Last-Event-ID."""
    benchfarm_longest_wait_s: float = Field(default=55.0, gt=0, le=55)
    """Polls and waits for a job end after this time, whatever the caller asked for."""
    benchfarm_longest_measurement_s: float = Field(default=1200.0, gt=0)
    """A job whose protocol's parameters let the launches of one measurement hold a board for longer is refused."""
    benchfarm_offer_s: float = Field(default=10.0, gt=0)
    """An offer that no agent accepts ends after this; it costs nothing."""
    benchfarm_lease_s: float = Field(default=60.0, gt=0)
    """A lease ends this long after its acceptance or last renewal."""
    benchfarm_renew_s: float = Field(default=15.0, gt=0)
    """Agents are told to renew this often, with jitter."""
    benchfarm_retry_s: float = Field(default=5.0, ge=0, le=3600)
    """A board leaves what a loud moment made inconclusive alone this long, then six and 24 times as long; 0: not. So do
    all boards with what failed where no launch could begin. A board whose lease was noisy as a whole rests altogether,
    twice as long."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.benchfarm_tls_certificate is None) != (self.benchfarm_tls_key is None):
            raise ValueError("BENCHFARM_TLS_CERTIFICATE and BENCHFARM_TLS_KEY belong together")
        _ = self.lease_times  # times that cannot work are refused at the start, not at every acceptance
        return self

    @property
    def lease_times(self) -> LeaseTimes:
        """How long offers and leases live, and what was inconclusive rests."""
        return LeaseTimes.from_settings(
            offer_s=self.benchfarm_offer_s,
            lease_s=self.benchfarm_lease_s,
            renew_s=self.benchfarm_renew_s,
            retry_s=self.benchfarm_retry_s,
        )
