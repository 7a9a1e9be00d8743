"""Settings: their sources, the values that are refused, and the example file that lists all of them."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from tollkeeper.errors import ConfigurationError
from tollkeeper.installation_secret import EXAMPLE, SIGNING_SECRET
from tollkeeper.settings import Settings, load_settings
from tollkeeper.settings.variables import read_variable
from tollkeeper.settings.warnings import setting_warnings

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No environment and no .env but what a test makes."""
    for field in Settings.model_fields.values():
        for name in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)
            monkeypatch.delenv(f"{name}_FILE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("DATABASE_URL", "postgresql://db/x", "database_url", "postgresql://db/x"),
        ("TOLLKEEPER_DATABASE_URL", "sqlite:///x.db", "database_url", "sqlite:///x.db"),
        ("PORT", "9000", "port", 9000),
        ("TOLLKEEPER_PORT", "9001", "port", 9001),
        ("LOG_LEVEL", "warning", "log_level", "warning"),
        ("LOG_LEVEL", "INFO", "log_level", "info"),
        ("MAX_TOKENS", "99", "max_tokens", 99),
        ("TIMEOUT_SECONDS", "7.5", "timeout_seconds", 7.5),
        ("OPENAI_MODEL", "gpt-4o", "openai_model", "gpt-4o"),
        ("OPENAI_API_KEY", "", "openai_api_key", None),
        ("ANTHROPIC_AUTH_TOKEN", "", "anthropic_auth_token", None),
        ("ANTHROPIC_MODEL", "claude-opus-5", "anthropic_model", "claude-opus-5"),
        ("OLLAMA_BASE_URL", "http://127.0.0.1:11434", "ollama_base_url", "http://127.0.0.1:11434"),
        ("TOLLKEEPER_CATALOG", "catalog.toml", "catalog", Path("catalog.toml")),
        ("TOLLKEEPER_BREAKER_FAILURES", "0", "breaker_failures", 0),
        ("TOLLKEEPER_FREE_CHARGES_DAYS", "0", "free_charges_days", 0),
        ("TOLLKEEPER_RATE_LIMIT_READS", "OFF", "rate_limit_reads", "off"),
        ("TOLLKEEPER_RATE_LIMIT_HANDSHAKES", "OFF", "rate_limit_handshakes", "off"),
        ("TOLLKEEPER_BREAKER_SECONDS", "2.5", "breaker_seconds", 2.5),
        ("TOLLKEEPER_ALLOWED_ORIGINS", "", "origins", ()),
        (
            "TOLLKEEPER_ALLOWED_ORIGINS",
            "https://A.example/, http://b:81",
            "origins",
            ("https://a.example", "http://b:81"),
        ),
        ("TOLLKEEPER_RATE_LIMIT_AI", "off", "rate_limit_ai", "off"),
        ("TOLLKEEPER_RATE_LIMIT_AI", "10/second;1000/hour", "rate_limit_ai", "10/second;1000/hour"),
    ],
)
def test_a_setting_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == expected


def test_the_environment_wins_over_the_file_and_the_prefixed_name_over_the_short_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=1000\nMAX_TOKENS=77\nSOMETHING_ELSE=1\n")
    assert (load_settings().port, load_settings().max_tokens) == (1000, 77)
    monkeypatch.setenv("PORT", "2000")
    assert load_settings().port == 2000
    monkeypatch.setenv("TOLLKEEPER_PORT", "3000")
    assert load_settings().port == 3000
    assert load_settings(port=4000).port == 4000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("DATABASE_URL", "mysql://secret-password@db/x"),
        ("TOLLKEEPER_RATE_LIMIT_AI", "many"),
        ("TOLLKEEPER_RATE_LIMIT_LOGIN", "0/minute;;"),
        ("TOLLKEEPER_ALLOWED_ORIGINS", "*"),
        ("TOLLKEEPER_ALLOWED_ORIGINS", "app.example.com"),
        ("TOLLKEEPER_ALLOWED_ORIGINS", "https://app.example.com/page"),
        ("TOLLKEEPER_LEASE_SECONDS", "0"),
        ("LOG_LEVEL", "loud"),
        ("TIMEOUT_SECONDS", "-1"),
        ("TOLLKEEPER_BREAKER_FAILURES", "-1"),
        ("TOLLKEEPER_BREAKER_SECONDS", "0"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert "secret-password" not in raised.value.detail
    assert "\n" not in raised.value.detail


@pytest.mark.parametrize("name", ["OPENAI_MODEL", "ANTHROPIC_MODEL", "OLLAMA_MODEL"])
def test_the_name_of_a_model_must_be_printable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "gpt\u202e-4o")
    with pytest.raises(ConfigurationError, match=rf"{name} .*U\+202E \(RIGHT-TO-LEFT OVERRIDE\)"):
        load_settings()


def test_the_example_file_has_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text()
    documented = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    for field in Settings.model_fields.values():
        first = str(field.validation_alias.choices[0])  # type: ignore[union-attr]
        assert first in documented, f"{first} is not in .env.example"
        default = "" if field.default is None else field.default
        assert documented.pop(first) in {
            str(default),
            f"{default:g}" if isinstance(default, float) else str(default),
        }, first
        for short in field.validation_alias.choices[1:]:  # type: ignore[union-attr]
            assert str(short) in text, f"{short} is not mentioned in .env.example"
    assert not documented, "the example file names settings that do not exist"


@pytest.mark.parametrize("secret", ["", "short", "a" * 64, "ab" * 32, EXAMPLE])
def test_a_weak_secret_is_refused(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="openssl rand"):
        SIGNING_SECRET.check(SecretStr(secret))


def test_a_secret_is_made_and_kept_only_for_sqlite_on_loopback(tmp_path: Path) -> None:
    local = Settings(database_url=f"sqlite:///{tmp_path}/x.db")
    made = SIGNING_SECRET.load(local, None).get_secret_value()
    assert SIGNING_SECRET.load(local, None).get_secret_value() == made
    assert (tmp_path / SIGNING_SECRET.file_name).stat().st_mode & 0o777 == 0o600
    for settings in (
        Settings(database_url="postgresql://db/x"),
        Settings(database_url=f"sqlite:///{tmp_path}/x.db", host="0.0.0.0"),
        Settings(database_url=f"sqlite:///{tmp_path}/x.db", host="gateway.example.com"),
    ):
        with pytest.raises(ConfigurationError, match="TOLLKEEPER_SIGNING_SECRET is missing"):
            SIGNING_SECRET.load(settings, None)
    for host in ("::1", "localhost", "127.0.0.2"):
        assert SIGNING_SECRET.load(local.model_copy(update={"host": host}), None).get_secret_value() == made


def test_a_given_secret_is_used_as_it_is() -> None:
    secret = SecretStr("0123456789abcdef0123456789abcdef")
    assert SIGNING_SECRET.load(Settings(signing_secret=secret, database_url="postgresql://db/x"), secret) == secret


def test_a_variable_that_is_no_setting_is_read_from_the_environment_or_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    assert read_variable("GROQ_API_KEY") is None
    (tmp_path / ".env").write_text("GROQ_API_KEY=from-the-file\nEMPTY_KEY=\n")
    assert read_variable("GROQ_API_KEY") == SecretStr("from-the-file")
    assert read_variable("EMPTY_KEY") is None
    monkeypatch.setenv("GROQ_API_KEY", "from-the-environment")
    assert read_variable("GROQ_API_KEY") == SecretStr("from-the-environment")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("TOLLKEEPER_SIGNING_SECRET", "signing_secret"),
        ("TOLLKEEPER_PREVIOUS_DATA_KEY", "previous_data_key"),
        ("OPENAI_API_KEY", "openai_api_key"),
        ("ANTHROPIC_AUTH_TOKEN", "anthropic_auth_token"),
    ],
)
def test_a_secret_can_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, field: str) -> None:
    for content in ("of the file", "of the file\n", "of the file\r\n"):
        (tmp_path / "secret").write_bytes(content.encode())
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
        settings = load_settings()
        assert getattr(settings, field) == SecretStr("of the file")
        assert setting_warnings(settings) == []
        assert read_variable(name) == SecretStr("of the file")
    monkeypatch.setenv(name, "of the environment")
    message = f"^{name} and {name}_FILE are both set. Set only one of them.$"
    with pytest.raises(ConfigurationError, match=message):
        load_settings()
    with pytest.raises(ConfigurationError, match=message):
        read_variable(name)


def test_the_url_of_the_database_can_be_in_a_file_that_the_env_file_names(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://user:password@db/x\n")
    (tmp_path / ".env").write_text("DATABASE_URL_FILE=url\n")
    assert load_settings().database_url == "postgresql://user:password@db/x"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b"\xff-secret", "not UTF-8"),
        (b"x" * 65_537, "65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_without_its_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("TOLLKEEPER_DATA_KEY_FILE", str(path))
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert raised.value.detail.startswith(f"TOLLKEEPER_DATA_KEY_FILE cannot be used: {path}")
    assert complaint in raised.value.detail
    assert "xxx" not in raised.value.detail
    assert "-secret" not in raised.value.detail


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("TOLLKEEPER_LOG_LEVL", ["TOLLKEEPER_LOG_LEVL is not a setting. Did you mean TOLLKEEPER_LOG_LEVEL?"]),
        ("tollkeeper_log_levl", ["TOLLKEEPER_LOG_LEVL is not a setting. Did you mean TOLLKEEPER_LOG_LEVEL?"]),
        ("TOLLKEEPER_OPENAI_MODEL", ["TOLLKEEPER_OPENAI_MODEL is not a setting. Did you mean OPENAI_MODEL?"]),
        ("TOLLKEEPER_OF_ANOTHER_PROGRAM", ["TOLLKEEPER_OF_ANOTHER_PROGRAM is not a setting."]),
        ("TOLLKEPER_PORT", ["TOLLKEPER_PORT is not a setting. Did you mean TOLLKEEPER_PORT?"]),
        ("TOLKEEPER_LOG_LEVEL", ["TOLKEEPER_LOG_LEVEL is not a setting. Did you mean TOLLKEEPER_LOG_LEVEL?"]),
        ("BOOKKEEPER_PORT", []),
        ("TOLLKEPER_OF_ANOTHER_PROGRAM", []),
        ("TOLLKEEPER_SERVICE_PORT_HTTP", []),
        ("TOLLKEEPER_PORT_8000_TCP_ADDR", []),
        (
            "OPENAI_BASE_URL",
            ["OPENAI_BASE_URL has no effect: OPENAI_API_KEY is not set. If the server needs no key, set any value."],
        ),
        (
            "ANTHROPIC_BASE_URL",
            ["ANTHROPIC_BASE_URL has no effect: neither ANTHROPIC_API_KEY nor ANTHROPIC_AUTH_TOKEN is set."],
        ),
    ],
)
def test_a_variable_without_effect_is_named_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, warnings: list[str]
) -> None:
    with monkeypatch.context() as environment:
        environment.setenv(name, "https://something")
        assert setting_warnings(load_settings()) == warnings
    (tmp_path / ".env").write_text(f"{name}=https://something\n")
    assert setting_warnings(load_settings()) == warnings


def test_a_variable_that_the_catalog_names_has_an_effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[providers.a]\nkind = "openai"\napi_key_env = "TOLLKEEPER_KEY_OF_A"\n')
    monkeypatch.setenv("TOLLKEEPER_CATALOG", str(catalog))
    for name in ("TOLLKEEPER_KEY_OF_A", "TOLLKEEPER_KEY_OF_A_FILE", "TOLLKEEPER_KEY_OF_B"):
        monkeypatch.setenv(name, "x")
    assert setting_warnings(load_settings()) == ["TOLLKEEPER_KEY_OF_B is not a setting."]
    for text in ("providers = 1", "not TOML", "providers = {a = 1}"):
        catalog.write_text(text)
        assert len(setting_warnings(load_settings())) == 3


def test_no_setting_of_the_example_file_causes_a_warning(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text() + "OPENAI_API_KEY=x\nANTHROPIC_API_KEY=x\n")
    assert setting_warnings(load_settings()) == []


def test_an_invalid_setting_is_named_as_it_is_set_and_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_TOKENS", "many")
    monkeypatch.setenv("TOLLKEEPER_RATE_LIMIT_AI", "lots")
    monkeypatch.setenv("TOLLKEEPER_PORT", "tcp://10.0.0.1:8000")
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    detail = raised.value.detail
    assert detail.startswith("Invalid settings: TOLLKEEPER_PORT must be a whole number. Kubernetes sets this variable")
    assert "; MAX_TOKENS must be a whole number." in detail
    assert 'TOLLKEEPER_RATE_LIMIT_AI must look like "600/minute" or "off"' in detail
    assert "Value error" not in detail


def test_an_unreadable_env_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"PORT=\xff\n")
    with pytest.raises(ConfigurationError, match=f"Cannot read the settings in {tmp_path}/.env: it is not UTF-8 text"):
        load_settings()


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOLLKEEPER_DATABASE_URL", "sqlite:///data/x.db")
    assert load_settings().sqlite_path == tmp_path / "data" / "x.db"
    assert load_settings().spill_folder == tmp_path / "data"


def test_no_secret_shows_in_the_settings_text() -> None:
    settings = Settings(
        openai_api_key=SecretStr("sk-hidden"),
        anthropic_api_key=SecretStr("sk-ant-hidden"),
        anthropic_auth_token=SecretStr("hidden-token"),
        signing_secret=SecretStr("hidden-too"),
    )
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_BASE_URL"])
@pytest.mark.parametrize("url", ["api.example.com", "ftp://api.example.com", "https://user:x@example.com", "https://"])
def test_a_base_url_that_cannot_be_called_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(ConfigurationError, match=f"{name} must begin with http"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mysql://u:hidden@db/x", "must begin with sqlite:/// or postgresql://"),
        ("postgresql://u:hidden@db:port/x", "must look like postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("postgresql://u:hidden@[::1/x", "must look like postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("postgres://u:hid#den@db/x", "with %23 for # in a password"),
        ("postgresql://u:hidden@db/x?sslmode=require&channel_binding=require", "leave it out, and keep sslmode"),
    ],
)
def test_the_url_of_a_database_is_checked_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, url: str, complaint: str
) -> None:
    monkeypatch.setenv("TOLLKEEPER_DATABASE_URL", url)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "TOLLKEEPER_DATABASE_URL " in str(caught.value)
    assert complaint in str(caught.value)
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///data/a b.db",
        "postgres://u:p%23%2F@db.example.com:5432/x?sslmode=verify-full&sslrootcert=/ca.pem&application_name=a",
        "postgresql://u@[2001:db8::1]:5432,second/x?target_session_attrs=read-write",
        "postgresql://postgres:@/x?host=/var/run/postgresql",
    ],
)
def test_the_urls_of_databases_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TOLLKEEPER_DATABASE_URL", url)
    assert load_settings().database_url == url
