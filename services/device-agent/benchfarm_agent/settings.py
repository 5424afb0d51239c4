"""What an agent must be told, read once at its start."""

import ipaddress
import socket
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_GIB = 1024**3


class Settings(BaseSettings):
    """From the command line, else from BENCHFARM_AGENT_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="BENCHFARM_AGENT_", extra="ignore", frozen=True)

    url: str
    """The farm; `http://` on loopback only."""
    state_dir: Path
    """Folder for identity, spool, journal and cache."""
    name: str = Field(default_factory=socket.gethostname, min_length=1, max_length=100)
    """A name for people; the one that the enrolment token carries goes before it."""
    enrol_token: SecretStr | None = None
    """One-time token, needed at the first start only."""
    enrol_token_file: Path | None = None
    """A file that holds the one-time token."""
    boards: Path | None = None
    """The lab's `boards.toml`: phones and SSH hosts; without it the agent drives this machine alone."""
    cache_limit_bytes: int = Field(default=2 * _GIB, gt=0)
    """Most bytes of files kept for later batches."""
    max_file_bytes: int = Field(default=_GIB, gt=0)
    """The largest file taken from the farm."""
    poll_wait_s: float = Field(default=25.0, ge=0, le=55)
    """How long the farm may park a poll."""
    gate_foreign_threads: float | None = Field(default=None, ge=0)
    """A host counts as busy when more other threads than this want to run; by default, more than it has cores."""
    gate_wait_s: float = Field(default=20.0, ge=0)
    """How long a board waits for quiet before its lease is given back."""
    drain_s: float = Field(default=5.0, ge=0, le=8)
    """How long a launch may still run after SIGTERM."""
    started_every_s: float = Field(default=1.0, gt=0)
    """At most one report of what runs in this time, for all boards together."""
    max_temperature_c: float = Field(default=85.0, gt=0)
    """Above this nothing is launched."""
    ready_file: Path | None = Field(default=None, validation_alias="BENCHFARM_READY_FILE")
    """Made when the agent polls; a supervisor waits for it."""
    runner_argv: tuple[str, ...] | None = None
    """The command of the runner, where it is not that of each engine's environment."""

    @field_validator("url")
    @classmethod
    def _safe(cls, url: str) -> str:
        return checked_url(url)


def checked_url(url: str) -> str:
    """The farm's address without a trailing slash. Raises ValueError for `http://` beyond loopback."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url[:200]!r} is no http(s) address")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("a token would travel in the clear: use https:// for a farm beyond loopback")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
