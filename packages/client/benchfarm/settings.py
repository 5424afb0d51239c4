"""The command's settings from the environment; the SDK itself reads none."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """An option of the same name goes before each of these."""

    model_config = SettingsConfigDict(env_prefix="BENCHFARM_", env_ignore_empty=True, extra="ignore")

    url: str | None = Field(default=None, description="the farm's URL")
    token: SecretStr | None = Field(default=None, description="the token itself; a file is the safer place")
    token_file: Path | None = Field(default=None, description="a file that holds the token")
    ca_file: Path | None = Field(default=None, description="certificates of a lab's own authority (PEM)")
    trace: str | None = Field(default=None, description="anything: a fault of the command shows where it happened")
    config_home: Path = Field(
        default_factory=lambda: Path.home() / ".config",
        validation_alias="XDG_CONFIG_HOME",
        description="folder that holds `benchfarm/login.json`",
    )
