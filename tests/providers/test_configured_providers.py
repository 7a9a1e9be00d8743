"""Which providers an installation has, by its environment and by the operator's catalog."""

from pathlib import Path

import pytest
from pydantic import AliasChoices

from tollkeeper import errors
from tollkeeper.bootstrap import make_catalog
from tollkeeper.chat import Price
from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.anthropic import AnthropicProvider
from tollkeeper.providers.base import Provider, Wire
from tollkeeper.providers.breaker import CircuitBreaker
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.ollama import OllamaProvider
from tollkeeper.providers.openai import ALL_WIRES, COMMON_WIRES, OpenAIProvider
from tollkeeper.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[2] / "catalog.example.toml"
FREE = Price(0, 0, 0)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No environment and no .env but what a test makes."""
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        for name in field.validation_alias.choices:
            monkeypatch.delenv(str(name), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Make":
    return Make(monkeypatch, tmp_path)


class Make:
    """Makes the catalog of an environment, perhaps with a catalog file."""

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


def behind(provider: Provider) -> Provider:
    """What is behind the breaker."""
    assert isinstance(provider, CircuitBreaker)
    return provider.provider


def test_without_any_provider_echo_answers_for_nothing(make: Make) -> None:
    catalog = make()
    assert isinstance(catalog.default_provider, EchoProvider)
    assert [(one.model.name, one.model.price) for one in catalog.listed_models()] == [("echo", FREE)]
    with pytest.raises(errors.NotFound):
        catalog.model("gpt-4o")


def test_a_key_of_openai_is_enough_and_any_model_is_asked_there(make: Make) -> None:
    catalog = make(OPENAI_API_KEY="sk-x", OPENAI_MODEL="gpt-4o")
    assert isinstance(behind(catalog.default_provider), OpenAIProvider)
    assert catalog.model(None).name == "gpt-4o"
    assert catalog.model("whatever").provider is catalog.default_provider
    assert "gpt-4o-mini" in [one.model.name for one in catalog.listed_models()]
    with pytest.raises(errors.NotFound):
        make(OPENAI_API_KEY="sk-x", OLLAMA_BASE_URL="http://127.0.0.1:1").model("echo")


@pytest.mark.parametrize("credential", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_a_key_or_a_token_of_anthropic_is_enough(make: Make, credential: str) -> None:
    catalog = make(**{credential: "x", "ANTHROPIC_MODEL": "claude-sonnet-4-5"})
    assert isinstance(behind(catalog.default_provider), AnthropicProvider)
    model = catalog.model(None)
    assert (model.name, model.context_window) == ("claude-sonnet-4-5", 200_000)
    assert model.price == Price(3_000_000, 300_000, 15_000_000, 3_750_000)


def test_ollama_is_free(make: Make) -> None:
    catalog = make(OLLAMA_BASE_URL="http://127.0.0.1:11434", OLLAMA_MODEL="qwen3")
    assert isinstance(behind(catalog.default_provider), OllamaProvider)
    assert (catalog.model(None).name, catalog.model("llama3.2").price) == ("qwen3", FREE)


def test_several_providers_each_have_their_models(make: Make) -> None:
    catalog = make(OPENAI_API_KEY="x", ANTHROPIC_API_KEY="x", OLLAMA_BASE_URL="http://127.0.0.1:1")
    names = [None, "claude-opus-4-5", "llama3.2", "ollama/qwen3", "openai/x"]
    served = [catalog.model(name).provider.name for name in names]
    assert served == ["openai", "anthropic", "ollama", "ollama", "openai"]
    listed = {one.model.name: one.model.provider.name for one in catalog.listed_models()}
    assert {"openai", "anthropic", "ollama"} == set(listed.values())
    assert listed["claude-haiku-4-5"] == "anthropic"


def test_the_catalog_adds_providers_and_can_replace_those_of_the_environment(make: Make) -> None:
    catalog = make(
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
    assert isinstance(behind(catalog.model("local/x").provider), OllamaProvider)
    assert catalog.model("local/x").price == FREE
    assert isinstance(catalog.model("mocked").provider, EchoProvider)
    assert catalog.model("mock").provider.name == "mock"
    replaced = catalog.model("gpt-4o")
    assert (replaced.provider.name, replaced.price) == ("openai", None), "not OpenAI's prices at another's place"


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
def test_the_wires_of_a_provider(make: Make, entry: str, wires: frozenset[Wire], wire: Wire) -> None:
    catalog = make(f'default = "x/m"\n[providers.x]\nkind = "openai"\n{entry}')
    provider = behind(catalog.model("x/m").provider)
    assert isinstance(provider, OpenAIProvider)
    assert (provider._wires, provider._wire) == (wires, wire)


def test_a_key_that_is_not_there_is_told_without_what_stands_in_its_place(make: Make) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make('[providers.groq]\nkind = "openai"\napi_key_env = "gsk_a1b2c3"', OPENAI_API_KEY="x")
    assert raised.value.detail == "The catalog is not valid. providers.groq.api_key_env: that variable is not set."


def test_the_breaker_can_be_turned_off(make: Make) -> None:
    assert isinstance(make(OPENAI_API_KEY="x", TOLLKEEPER_BREAKER_FAILURES="0").default_provider, OpenAIProvider)


def test_the_example_can_be_used_as_it_is(make: Make) -> None:
    catalog = make(EXAMPLE.read_text(), GROQ_API_KEY="x")
    fast = catalog.model(None)
    assert catalog.model("llama") is catalog.model("groq/llama-3.1-8b-instant") is fast
    assert (fast.name, fast.weight_milli, fast.price) == ("fast", 500, Price(50_000, 50_000, 80_000))
    assert catalog.model(fast.fallbacks[0]).provider.name == "offline"


async def test_closing_closes_every_provider(make: Make) -> None:
    await make(OPENAI_API_KEY="x", ANTHROPIC_API_KEY="x", OLLAMA_BASE_URL="http://127.0.0.1:1").close()
