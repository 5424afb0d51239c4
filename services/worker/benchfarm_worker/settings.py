"""What a worker must be told, read once in `__main__`."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchfarm_core.leases import LeaseTimes


class Settings(BaseSettings):
    """From the environment. The two addresses have no default."""

    model_config = SettingsConfigDict(extra="ignore")

    database_url: str
    """PostgreSQL 18, in SQLAlchemy's form."""
    redis_url: str
    """Valkey or Redis, in redis-py's form: Celery's broker."""
    benchfarm_data_dir: Path | None = None
    """Folder of the stored files, as the API has it: what nobody needs any more is deleted. None: nothing is."""
    benchfarm_ready_file: Path | None = None
    """Made when the queues are consumed; a supervisor waits for it."""
    benchfarm_worker_processes: int = Field(default=2, ge=1, le=64)
    """Child processes of one worker."""
    benchfarm_sweep_s: float = Field(default=5.0, gt=0)
    """The sweep that repairs losses, and the dispatch of all boards, run this often."""
    benchfarm_train_wait_s: float = Field(default=300.0, ge=0)
    """Training waits so long for this host to have no lease; then it goes on beside them, with the lowest priority."""
    benchfarm_refresh_every_s: float = Field(default=600.0, ge=0)
    """Predictors are looked after this often: those with enough new results are made anew; 0: never."""
    benchfarm_golden_every_s: float = Field(default=86_400.0, ge=0)
    """Each board runs the golden suite this often, and when it is new, starts anew or was released; 0: never."""
    benchfarm_exports_kept_s: float = Field(default=180 * 86_400.0, ge=0)
    """Exports whose file is not kept any more are forgotten so long after they were made or last missed anything; 0:
    never."""
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
        _ = self.lease_times  # times that cannot work are refused at the start, not at every dispatch
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
