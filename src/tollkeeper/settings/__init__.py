"""The settings, from the environment or `.env`. Each line of `.env.example` is a field here."""

import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tollkeeper.errors import ConfigurationError
from tollkeeper.settings.types import MIB, BaseUrl, HeaderName, ModelName, Networks, Origins, Port, RateLimit, SqlUrl
from tollkeeper.settings.variables import (
    ENV_FILE,
    raw_variable,
    read_env_file,
    read_from_file,
    set_twice,
    unreadable_env_file,
)

PREFIX = "TOLLKEEPER_"
_COMPLAINTS = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
}


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


OnOff = Annotated[Literal["on", "off"], BeforeValidator(_lower)]


def _env(*names: str) -> AliasChoices:
    """The environment variables of a setting. The first one that is set counts."""
    return AliasChoices(*names)


class Settings(BaseSettings):
    """All settings. The names of times carry their unit."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    database_url: SqlUrl = Field(
        "sqlite:///data/tollkeeper.db", validation_alias=_env("TOLLKEEPER_DATABASE_URL", "DATABASE_URL")
    )
    prepared_statements: bool = Field(True, validation_alias=_env("TOLLKEEPER_PREPARED_STATEMENTS"))
    host: str = Field("127.0.0.1", validation_alias=_env("TOLLKEEPER_HOST"))
    port: Port = Field(8000, ge=1, le=65535, validation_alias=_env("TOLLKEEPER_PORT", "PORT"))
    workers: int = Field(1, ge=1, le=256, validation_alias=_env("TOLLKEEPER_WORKERS"))
    trusted_proxies: str = Field(
        "127.0.0.1,::1", validation_alias=_env("TOLLKEEPER_TRUSTED_PROXIES", "FORWARDED_ALLOW_IPS")
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", validation_alias=_env("TOLLKEEPER_LOG_LEVEL", "LOG_LEVEL")
    )
    log_format: Annotated[Literal["auto", "json", "text"], BeforeValidator(_lower)] = Field(
        "auto", validation_alias=_env("TOLLKEEPER_LOG_FORMAT")
    )
    metrics_port: int | None = Field(None, ge=1, le=65535, validation_alias=_env("TOLLKEEPER_METRICS_PORT"))
    metrics_token: SecretStr | None = Field(None, validation_alias=_env("TOLLKEEPER_METRICS_TOKEN"))
    log_provider_errors: bool = Field(False, validation_alias=_env("TOLLKEEPER_LOG_PROVIDER_ERRORS"))

    trace_url: BaseUrl | None = Field(None, validation_alias=_env("TOLLKEEPER_TRACE_URL"))
    trace_token: SecretStr | None = Field(None, validation_alias=_env("TOLLKEEPER_TRACE_TOKEN"))
    trace_ratio: float = Field(1.0, ge=0, le=1, validation_alias=_env("TOLLKEEPER_TRACE_RATIO"))
    events_log: bool = Field(True, validation_alias=_env("TOLLKEEPER_EVENTS_LOG"))
    events_file: Path | None = Field(None, validation_alias=_env("TOLLKEEPER_EVENTS_FILE"))
    events_file_megabytes: int = Field(100, ge=1, le=100_000, validation_alias=_env("TOLLKEEPER_EVENTS_FILE_MEGABYTES"))
    events_files: int = Field(10, ge=1, le=10_000, validation_alias=_env("TOLLKEEPER_EVENTS_FILES"))
    events_url: BaseUrl | None = Field(None, validation_alias=_env("TOLLKEEPER_EVENTS_URL"))
    events_token: SecretStr | None = Field(None, validation_alias=_env("TOLLKEEPER_EVENTS_TOKEN"))
    events_networks: Networks = Field("", validation_alias=_env("TOLLKEEPER_EVENTS_NETWORKS"))
    events_queue: int = Field(10_000, ge=1, le=1_000_000, validation_alias=_env("TOLLKEEPER_EVENTS_QUEUE"))

    max_head_bytes: int = Field(32_768, ge=1_024, le=1_048_576, validation_alias=_env("TOLLKEEPER_MAX_HEAD_BYTES"))
    max_head_fields: int = Field(100, ge=10, le=10_000, validation_alias=_env("TOLLKEEPER_MAX_HEAD_FIELDS"))
    head_seconds: float = Field(10.0, gt=0, le=600, validation_alias=_env("TOLLKEEPER_HEAD_SECONDS"))
    drain_seconds: float = Field(0.0, ge=0, le=600, validation_alias=_env("TOLLKEEPER_DRAIN_SECONDS"))
    grace_seconds: float = Field(30.0, gt=0, le=7200, validation_alias=_env("TOLLKEEPER_GRACE_SECONDS"))
    idle_seconds: float = Field(75.0, gt=0, le=3600, validation_alias=_env("TOLLKEEPER_IDLE_SECONDS"))
    max_connections: int = Field(10_000, ge=10, le=1_000_000, validation_alias=_env("TOLLKEEPER_MAX_CONNECTIONS"))
    max_connections_per_address: int = Field(
        2_000, ge=1, le=1_000_000, validation_alias=_env("TOLLKEEPER_MAX_CONNECTIONS_PER_ADDRESS")
    )
    socket_frames_per_second: float = Field(
        50.0, gt=0, le=100_000, validation_alias=_env("TOLLKEEPER_SOCKET_FRAMES_PER_SECOND")
    )

    signing_secret: SecretStr | None = Field(None, validation_alias=_env("TOLLKEEPER_SIGNING_SECRET"))
    previous_signing_secret: SecretStr | None = Field(None, validation_alias=_env("TOLLKEEPER_PREVIOUS_SIGNING_SECRET"))
    access_token_minutes: int = Field(15, ge=1, le=1440, validation_alias=_env("TOLLKEEPER_ACCESS_TOKEN_MINUTES"))
    session_hours: int = Field(720, ge=1, le=8_760, validation_alias=_env("TOLLKEEPER_SESSION_HOURS"))
    step_up_minutes: int = Field(15, ge=1, le=1440, validation_alias=_env("TOLLKEEPER_STEP_UP_MINUTES"))
    require_operator_totp: bool = Field(False, validation_alias=_env("TOLLKEEPER_REQUIRE_OPERATOR_TOTP"))
    data_key: SecretStr | None = Field(None, validation_alias=_env("TOLLKEEPER_DATA_KEY"))
    previous_data_key: SecretStr | None = Field(None, validation_alias=_env("TOLLKEEPER_PREVIOUS_DATA_KEY"))
    public_url: BaseUrl | None = Field(None, validation_alias=_env("TOLLKEEPER_PUBLIC_URL"))
    private_networks: Networks = Field("", validation_alias=_env("TOLLKEEPER_PRIVATE_NETWORKS"))
    bcrypt_rounds: int = Field(12, ge=4, le=16, validation_alias=_env("TOLLKEEPER_BCRYPT_ROUNDS"))

    lease_seconds: float = Field(60.0, ge=1, le=3600, validation_alias=_env("TOLLKEEPER_LEASE_SECONDS"))
    sweep_seconds: float = Field(15.0, ge=0.1, le=600, validation_alias=_env("TOLLKEEPER_SWEEP_SECONDS"))
    ledger_queue: int = Field(10_000, ge=1, validation_alias=_env("TOLLKEEPER_LEDGER_QUEUE"))
    jobs: OnOff = Field("on", validation_alias=_env("TOLLKEEPER_JOBS"))
    jobs_concurrency: int = Field(8, ge=1, le=1_000, validation_alias=_env("TOLLKEEPER_JOBS_CONCURRENCY"))
    job_hours: float = Field(24.0, gt=0, le=720, validation_alias=_env("TOLLKEEPER_JOB_HOURS"))
    job_result_hours: float = Field(168.0, gt=0, le=8_760, validation_alias=_env("TOLLKEEPER_JOB_RESULT_HOURS"))
    jobs_per_user: int = Field(1_000, ge=1, le=1_000_000, validation_alias=_env("TOLLKEEPER_JOBS_PER_USER"))
    webhooks: OnOff = Field("on", validation_alias=_env("TOLLKEEPER_WEBHOOKS"))
    webhooks_concurrency: int = Field(32, ge=1, le=50, validation_alias=_env("TOLLKEEPER_WEBHOOKS_CONCURRENCY"))
    webhook_days: int = Field(30, ge=1, le=36_500, validation_alias=_env("TOLLKEEPER_WEBHOOK_DAYS"))
    file_days: float = Field(30.0, gt=0, le=3_650, validation_alias=_env("TOLLKEEPER_FILE_DAYS"))
    max_file_bytes: int = Field(100 * MIB, ge=1_024, le=1024 * MIB, validation_alias=_env("TOLLKEEPER_MAX_FILE_BYTES"))
    tenant_file_bytes: int = Field(1024 * MIB, ge=1_024, validation_alias=_env("TOLLKEEPER_MAX_TENANT_FILE_BYTES"))
    spill: Path | None = Field(None, validation_alias=_env("TOLLKEEPER_SPILL"))
    archive: Path | None = Field(None, validation_alias=_env("TOLLKEEPER_ARCHIVE"))
    archive_format: Annotated[Literal["csv", "parquet"], BeforeValidator(_lower)] = Field(
        "csv", validation_alias=_env("TOLLKEEPER_ARCHIVE_FORMAT")
    )
    archive_by_server: OnOff = Field("off", validation_alias=_env("TOLLKEEPER_ARCHIVE_BY_SERVER"))
    archive_months: int = Field(13, ge=2, le=1_200, validation_alias=_env("TOLLKEEPER_ARCHIVE_MONTHS"))
    stored_response_hours: int = Field(24, ge=1, le=720, validation_alias=_env("TOLLKEEPER_STORED_RESPONSE_HOURS"))
    free_charges_days: int = Field(30, ge=0, le=36_500, validation_alias=_env("TOLLKEEPER_FREE_CHARGES_DAYS"))

    rate_limit_login: RateLimit = Field(
        "30/minute", validate_default=False, validation_alias=_env("TOLLKEEPER_RATE_LIMIT_LOGIN")
    )
    rate_limit_ai: RateLimit = Field(
        "1200/minute", validate_default=False, validation_alias=_env("TOLLKEEPER_RATE_LIMIT_AI")
    )
    rate_limit_reads: RateLimit = Field(
        "600/minute", validate_default=False, validation_alias=_env("TOLLKEEPER_RATE_LIMIT_READS")
    )
    rate_limit_handshakes: RateLimit = Field(
        "600/minute", validate_default=False, validation_alias=_env("TOLLKEEPER_RATE_LIMIT_HANDSHAKES")
    )
    limits_store: SecretStr | None = Field(None, validation_alias=_env("TOLLKEEPER_LIMITS_STORE"))
    max_tokens: int = Field(1024, ge=16, le=1_000_000, validation_alias=_env("TOLLKEEPER_MAX_TOKENS", "MAX_TOKENS"))
    timeout_seconds: float = Field(
        120.0, gt=0, le=600, validation_alias=_env("TOLLKEEPER_TIMEOUT_SECONDS", "TIMEOUT_SECONDS")
    )
    http_client: Annotated[Literal["builtin", "aiohttp"], BeforeValidator(_lower)] = Field(
        "builtin", validation_alias=_env("TOLLKEEPER_HTTP_CLIENT")
    )
    ca_file: Path | None = Field(None, validation_alias=_env("TOLLKEEPER_CA_FILE"))
    provider_correlation_header: HeaderName = Field(
        "X-Client-Request-Id", validation_alias=_env("TOLLKEEPER_PROVIDER_CORRELATION_HEADER")
    )
    stream_idle_seconds: float = Field(30.0, gt=0, le=600, validation_alias=_env("TOLLKEEPER_STREAM_IDLE_SECONDS"))
    stream_total_seconds: float = Field(600.0, gt=0, le=7200, validation_alias=_env("TOLLKEEPER_STREAM_TOTAL_SECONDS"))
    stream_ping_seconds: float = Field(15.0, gt=0, le=600, validation_alias=_env("TOLLKEEPER_STREAM_PING_SECONDS"))
    conversation_tokens: int = Field(16_000, ge=100, le=10**6, validation_alias=_env("TOLLKEEPER_CONVERSATION_TOKENS"))
    conversation_days: int = Field(90, ge=1, le=36_500, validation_alias=_env("TOLLKEEPER_CONVERSATION_DAYS"))
    content_days: int = Field(30, ge=1, le=36_500, validation_alias=_env("TOLLKEEPER_CONTENT_DAYS"))
    cache_bytes: int = Field(64 * MIB, ge=0, validation_alias=_env("TOLLKEEPER_CACHE_BYTES"))
    cache_seconds: float = Field(3600.0, gt=0, le=86_400, validation_alias=_env("TOLLKEEPER_CACHE_SECONDS"))
    legacy_routes: OnOff = Field("off", validation_alias=_env("TOLLKEEPER_LEGACY_ROUTES"))
    embedding_model: ModelName | None = Field(None, validation_alias=_env("TOLLKEEPER_EMBEDDING_MODEL"))
    document_bytes: int = Field(1024**3, ge=0, validation_alias=_env("TOLLKEEPER_DOCUMENT_BYTES"))
    max_documents: int = Field(10_000, ge=1, le=1_000_000, validation_alias=_env("TOLLKEEPER_MAX_DOCUMENTS"))
    vector_bytes: int = Field(512 * 1024**2, ge=0, validation_alias=_env("TOLLKEEPER_VECTOR_BYTES"))
    vector_index: Literal["off", "pgvector"] = Field("off", validation_alias=_env("TOLLKEEPER_VECTOR_INDEX"))
    vector_index_chunks: int = Field(10_000, ge=1, validation_alias=_env("TOLLKEEPER_VECTOR_INDEX_CHUNKS"))
    retrieval_min_score: float = Field(0.3, ge=-1, le=1, validation_alias=_env("TOLLKEEPER_RETRIEVAL_MIN_SCORE"))
    allowed_origins: Origins = Field("", validation_alias=_env("TOLLKEEPER_ALLOWED_ORIGINS"))

    openai_api_key: SecretStr | None = Field(None, validation_alias=_env("OPENAI_API_KEY"))
    openai_base_url: BaseUrl = Field("https://api.openai.com/v1", validation_alias=_env("OPENAI_BASE_URL"))
    openai_model: ModelName = Field("gpt-4o-mini", validation_alias=_env("OPENAI_MODEL"))
    anthropic_api_key: SecretStr | None = Field(None, validation_alias=_env("ANTHROPIC_API_KEY"))
    anthropic_auth_token: SecretStr | None = Field(None, validation_alias=_env("ANTHROPIC_AUTH_TOKEN"))
    anthropic_base_url: BaseUrl = Field("https://api.anthropic.com", validation_alias=_env("ANTHROPIC_BASE_URL"))
    anthropic_model: ModelName = Field("claude-haiku-4-5", validation_alias=_env("ANTHROPIC_MODEL"))
    ollama_base_url: BaseUrl | None = Field(None, validation_alias=_env("OLLAMA_BASE_URL"))
    ollama_model: ModelName = Field("llama3.2", validation_alias=_env("OLLAMA_MODEL"))

    catalog: Path | None = Field(None, validation_alias=_env("TOLLKEEPER_CATALOG"))
    breaker_failures: int = Field(5, ge=0, le=1_000, validation_alias=_env("TOLLKEEPER_BREAKER_FAILURES"))
    breaker_seconds: float = Field(10.0, gt=0, le=600, validation_alias=_env("TOLLKEEPER_BREAKER_SECONDS"))

    echo_tokens: int = Field(0, ge=0, le=1_000_000, validation_alias=_env("TOLLKEEPER_ECHO_TOKENS"))
    echo_delay_seconds: float = Field(0.0, ge=0, le=600, validation_alias=_env("TOLLKEEPER_ECHO_DELAY_SECONDS"))
    echo_tokens_per_second: float = Field(
        0.0, ge=0, le=1_000_000, validation_alias=_env("TOLLKEEPER_ECHO_TOKENS_PER_SECOND")
    )
    echo_failure: Literal[
        "none", "unavailable", "auth_failed", "rate_limited", "rejected", "error", "timeout", "bad_response", "no_usage"
    ] = Field("none", validation_alias=_env("TOLLKEEPER_ECHO_FAILURE"))

    @model_validator(mode="after")
    def _check_each_with_others(self) -> Self:
        store = self.limits_store.get_secret_value() if self.limits_store is not None else None
        if store is not None and not store.startswith(("redis://", "rediss://")):
            raise ValueError("TOLLKEEPER_LIMITS_STORE must begin with redis:// or rediss://")
        if self.archive_by_server == "on" and self.archive is None:
            raise ValueError("TOLLKEEPER_ARCHIVE_BY_SERVER needs the folder for the files, TOLLKEEPER_ARCHIVE")
        return self

    @property
    def public_base_url(self) -> str:
        """The URL at which people reach the server, without a slash at its end: for links."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of the web pages that may call the API from a browser."""
        return tuple(self.allowed_origins.split(",")) if self.allowed_origins else ()

    @property
    def sqlite_path(self) -> Path | None:
        """The file of the SQLite database, as an absolute path, or None on PostgreSQL."""
        if not self.database_url.startswith("sqlite:///"):
            return None
        return Path(self.database_url.removeprefix("sqlite:///")).absolute()

    @property
    def spill_folder(self) -> Path:
        """Where a stopping server keeps what it could not book. By default beside the SQLite database, or here."""
        folder = self.spill or (self.sqlite_path.parent if self.sqlite_path is not None else Path())
        return folder.absolute()

    @property
    def serves_loopback_only(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def load_settings(**overrides: object) -> Settings:
    """Returns the settings from the environment, `.env` and the files of secrets; `overrides` take precedence.

    Raises ConfigurationError, which names the invalid variable, but never its value.
    """
    try:
        return Settings(**_read_secret_files() | overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigurationError(f"Invalid settings: {'; '.join(_problems(error))}.") from None
    except (OSError, UnicodeDecodeError, SettingsError) as error:
        raise unreadable_env_file(error) from None


def _read_secret_files() -> dict[str, object]:
    """The secrets that a file has, by field. Raises ConfigurationError, also for a secret that is set twice."""
    secrets: dict[str, object] = {}
    for field, names in names_of_secrets():
        values = [value for name in names if (value := read_from_file(name)) is not None]
        if not values:
            continue
        if variables := [name for name in names if raw_variable(name)]:
            raise set_twice(variables[0], names)
        secrets[field] = values[0]
    return secrets


def names_of_secrets() -> Iterator[tuple[str, list[str]]]:
    """Yields each setting that is a secret, or contains one, with the names of its variables."""
    for name, field in Settings.model_fields.items():
        is_secret = name == "database_url" or field.annotation in (SecretStr, SecretStr | None)
        if is_secret and isinstance(field.validation_alias, AliasChoices):
            yield name, [str(choice) for choice in field.validation_alias.choices]


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False):
        complaint = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        complaint = _COMPLAINTS.get(problem["type"], complaint)
        yield " ".join([*map(_given_name, problem["loc"]), complaint])


def _given_name(place: int | str) -> str:
    """Returns the variable that is set, where the place is the first of several names of a setting."""
    names = next((names for names in names_of_settings() if place in names), [str(place)])
    return next((name for name in names if os.environ.get(name) or read_env_file().get(name)), names[0])


def names_of_settings() -> Iterator[list[str]]:
    """Yields the names of the variables of each setting."""
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            yield [str(name) for name in field.validation_alias.choices]


def variable_of(field: str) -> str:
    """The name of the variable of a setting; of several, the one that is set, or the first."""
    alias = Settings.model_fields[field].validation_alias
    return _given_name(str(alias.choices[0])) if isinstance(alias, AliasChoices) else field
