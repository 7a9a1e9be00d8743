"""The providers that an installation has, from its environment and from the catalog file."""

from pathlib import Path

import pytest
from pydantic import AliasChoices, SecretStr

from tollkeeper import errors
from tollkeeper.bootstrap.catalog import make_catalog
from tollkeeper.chat import Price
from tollkeeper.dialects.parameters import DROP, PASS
from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.anthropic import AnthropicProvider
from tollkeeper.providers.azure import AzureProvider
from tollkeeper.providers.base import Provider, Wire
from tollkeeper.providers.breaker import CircuitBreaker
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.kind import ProviderOptions
from tollkeeper.providers.ollama import OllamaProvider
from tollkeeper.providers.openai import ALL_WIRES, COMMON_WIRES, OpenAIProvider
from tollkeeper.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[2] / "catalog.example.toml"
FREE = Price(0, 0, 0)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Removes every setting from the environment, and changes to a folder without a .env file."""
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        for name in field.validation_alias.choices:
            monkeypatch.delenv(str(name), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "CatalogBuilder":
    return CatalogBuilder(monkeypatch, tmp_path)


class CatalogBuilder:
    """Builds the catalog from environment variables, and from a catalog file if there is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self._folder = folder

    def __call__(self, file: str = "", **environment: str) -> Catalog:
        if file:
            (self._folder / "catalog.toml").write_text(file)
            environment["TOLLKEEPER_CATALOG"] = str(self._folder / "catalog.toml")
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)
        return make_catalog(load_settings())


def unwrapped(provider: Provider) -> Provider:
    """The provider unwrapped a circuit breaker."""
    assert isinstance(provider, CircuitBreaker)
    return provider.provider


def test_without_any_provider_the_free_echo_model_is_the_default(build: CatalogBuilder) -> None:
    catalog = build()
    assert isinstance(catalog.default_provider, EchoProvider)
    assert [(one.model.name, one.model.price) for one in catalog.listed_models()] == [("echo", FREE)]
    with pytest.raises(errors.NotFound):
        catalog.model("gpt-4o")


def test_with_an_openai_key_alone_openai_serves_any_model(build: CatalogBuilder) -> None:
    catalog = build(OPENAI_API_KEY="sk-x", OPENAI_MODEL="gpt-4o")
    assert isinstance(unwrapped(catalog.default_provider), OpenAIProvider)
    assert catalog.model(None).name == "gpt-4o"
    assert catalog.model("whatever").provider is catalog.default_provider
    assert "gpt-4o-mini" in [one.model.name for one in catalog.listed_models()]
    with pytest.raises(errors.NotFound):
        build(OPENAI_API_KEY="sk-x", OLLAMA_BASE_URL="http://127.0.0.1:1").model("echo")


@pytest.mark.parametrize("credential", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_an_anthropic_key_or_token_alone_configures_anthropic(build: CatalogBuilder, credential: str) -> None:
    catalog = build(**{credential: "x", "ANTHROPIC_MODEL": "claude-sonnet-4-5"})
    assert isinstance(unwrapped(catalog.default_provider), AnthropicProvider)
    model = catalog.model(None)
    assert (model.name, model.context_window) == ("claude-sonnet-4-5", 200_000)
    assert model.price == Price(3_000_000, 300_000, 15_000_000, 3_750_000)


def test_the_models_of_ollama_are_free(build: CatalogBuilder) -> None:
    catalog = build(OLLAMA_BASE_URL="http://127.0.0.1:11434", OLLAMA_MODEL="qwen3")
    assert isinstance(unwrapped(catalog.default_provider), OllamaProvider)
    assert (catalog.model(None).name, catalog.model("llama3.2").price) == ("qwen3", FREE)


def test_each_of_several_providers_serves_its_models(build: CatalogBuilder) -> None:
    catalog = build(OPENAI_API_KEY="x", ANTHROPIC_API_KEY="x", OLLAMA_BASE_URL="http://127.0.0.1:1")
    names = [None, "claude-opus-4-5", "llama3.2", "ollama/qwen3", "openai/x"]
    served = [catalog.model(name).provider.name for name in names]
    assert served == ["openai", "anthropic", "ollama", "ollama", "openai"]
    listed = {one.model.name: one.model.provider.name for one in catalog.listed_models()}
    assert {"openai", "anthropic", "ollama"} == set(listed.values())
    assert listed["claude-haiku-4-5"] == "anthropic"


def test_the_catalog_file_adds_providers_and_replaces_those_of_the_environment(build: CatalogBuilder) -> None:
    catalog = build(
        """
        [providers.openai]
        kind = "openai"
        base_url = "http://127.0.0.1:9/v1"
        [providers.claude]
        kind = "anthropic"
        api_key_env = "CLAUDE_KEY"
        [providers.local]
        kind = "ollama"
        [providers.mock]
        kind = "echo"
        [models.sonnet]
        provider = "claude"
        model = "claude-sonnet-4-5"
        [models.mocked]
        provider = "mock"
        """,
        OPENAI_API_KEY="x",
        CLAUDE_KEY="y",
    )
    assert catalog.model(None).name == "sonnet"
    assert catalog.model("sonnet").price == Price(3_000_000, 300_000, 15_000_000, 3_750_000)
    assert isinstance(unwrapped(catalog.model("local/x").provider), OllamaProvider)
    assert catalog.model("local/x").price == FREE
    assert isinstance(catalog.model("mocked").provider, EchoProvider)
    assert catalog.model("mock").provider.name == "mock"
    replaced = catalog.model("gpt-4o")
    assert (replaced.provider.name, replaced.price) == ("openai", None), (
        "OpenAI's prices do not apply to another server"
    )


@pytest.mark.parametrize(
    ("entry", "wires", "wire"),
    [
        ("", ALL_WIRES, Wire.CHAT),
        ('base_url = "https://api.openai.com/v1"', ALL_WIRES, Wire.CHAT),
        ('base_url = "http://127.0.0.1:9/v1"', COMMON_WIRES, Wire.CHAT),
        ('base_url = "https://api.openai.com.example/v1"', COMMON_WIRES, Wire.CHAT),
        ('wires = ["responses"]', frozenset({Wire.RESPONSES}), Wire.RESPONSES),
        ('base_url = "http://x/v1"\nwire = "responses"', COMMON_WIRES | {Wire.RESPONSES}, Wire.RESPONSES),
    ],
)
def test_the_wires_of_a_provider_depend_on_its_url_and_settings(
    build: CatalogBuilder, entry: str, wires: frozenset[Wire], wire: Wire
) -> None:
    catalog = build(f'default = "x/m"\n[providers.x]\nkind = "openai"\n{entry}')
    provider = unwrapped(catalog.model("x/m").provider)
    assert isinstance(provider, OpenAIProvider)
    assert (provider._wires, provider._wire) == (wires, wire)


def test_a_missing_api_key_is_reported_without_the_configured_value(build: CatalogBuilder) -> None:
    with pytest.raises(ConfigurationError) as raised:
        build('[providers.groq]\nkind = "openai"\napi_key_env = "gsk_a1b2c3"', OPENAI_API_KEY="x")
    assert raised.value.detail == "The variable of the API key is not set (named by providers.groq.api_key_env)."
    with pytest.raises(ConfigurationError) as raised:
        build('[providers.groq]\nkind = "openai"\napi_key_env = "GROQ_API_KEY"', OPENAI_API_KEY="x")
    assert raised.value.detail == "GROQ_API_KEY is not set (named by providers.groq.api_key_env)."


def test_the_breaker_can_be_disabled(build: CatalogBuilder) -> None:
    assert isinstance(build(OPENAI_API_KEY="x", TOLLKEEPER_BREAKER_FAILURES="0").default_provider, OpenAIProvider)


def test_the_example_catalog_is_valid(build: CatalogBuilder) -> None:
    catalog = build(EXAMPLE.read_text(), GROQ_API_KEY="x", AZURE_EAST_KEY="x", AZURE_WEST_KEY="x")
    fast = catalog.model(None)
    assert catalog.model("llama") is catalog.model("groq/llama-3.1-8b-instant") is fast
    assert (fast.name, fast.weight_milli, fast.price) == ("fast", 500, Price(50_000, 50_000, 80_000))
    assert catalog.model(fast.fallbacks[0]).provider.name == "offline"
    assert fast.extra_parameters == {
        "top_k": PASS,
        "chat_template_kwargs": PASS,
        "enable_thinking": DROP,
        "min_p": PASS,
    }
    spread = catalog.model("spread")
    assert spread.deployments is not None
    assert [type(unwrapped(one.provider)) for one in spread.deployments.models] == [AzureProvider] * 2


def test_each_deployment_has_a_breaker_of_its_own(build: CatalogBuilder) -> None:
    catalog = build(EXAMPLE.read_text(), GROQ_API_KEY="x", AZURE_EAST_KEY="x", AZURE_WEST_KEY="x")
    deployments = catalog.model("spread").deployments
    assert deployments is not None
    assert len({id(one.provider) for one in deployments.models if isinstance(one.provider, CircuitBreaker)}) == 2


def test_a_key_is_in_no_description_of_a_provider(build: CatalogBuilder) -> None:
    """So that neither a log line nor a traceback with its locals can show it."""
    secret = "not-to-be-printed"
    catalog = build(EXAMPLE.read_text(), GROQ_API_KEY=secret, AZURE_EAST_KEY=secret, AZURE_WEST_KEY=secret)
    for listed in catalog.listed_models():
        assert secret not in repr(listed)
    assert secret not in repr(ProviderOptions("x", api_key=SecretStr(secret)))


async def test_closing_the_catalog_closes_every_provider(build: CatalogBuilder) -> None:
    await build(OPENAI_API_KEY="x", ANTHROPIC_API_KEY="x", OLLAMA_BASE_URL="http://127.0.0.1:1").close()
