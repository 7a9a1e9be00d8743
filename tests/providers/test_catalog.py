"""The catalog knows what must be known before a call, and finds each model by every name that it has."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tollkeeper import errors
from tollkeeper.chat import Price
from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.base import IMAGE_TOKENS, MAX_CONTEXT, MIN_OUTPUT, OVERHEAD, OVERHEAD_WITH_TOOLS, Model
from tollkeeper.providers.catalog import MAX_CACHED_MODELS, MAX_NAME_LENGTH, Catalog, build_catalog
from tollkeeper.providers.catalog_file import read_catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.kind import ConfiguredProvider
from tollkeeper.providers.model_traits import MIN_REASONING_OUTPUT, traits_of

SECRET = "gsk_a1b2c3d4e5f6"


def source(name: str, default: str | None = None) -> ConfiguredProvider:
    return ConfiguredProvider(EchoProvider(name=name), default_model=default)


ALL = (source("openai", "gpt-4o-mini"), source("anthropic", "claude-haiku-4-5"), source("ollama", "llama3.2"))


def build(tmp_path: Path, text: str, sources: Iterable[ConfiguredProvider] = ALL) -> Catalog:
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    return build_catalog(sources, read_catalog(path))


def served(catalog: Catalog, name: str | None) -> tuple[str, str]:
    model = catalog.model(name)
    return model.provider.name, model.upstream_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, ("openai", "gpt-4o-mini")),
        ("gpt-5", ("openai", "gpt-5")),
        ("ft:gpt-4o-mini:house", ("openai", "ft:gpt-4o-mini:house")),
        ("o3-mini", ("openai", "o3-mini")),
        ("chatgpt-4o-latest", ("openai", "chatgpt-4o-latest")),
        ("text-embedding-3-small", ("openai", "text-embedding-3-small")),
        ("claude-opus-4-5", ("anthropic", "claude-opus-4-5")),
        ("llama3.2", ("ollama", "llama3.2")),
        ("ollama/llama3.2", ("ollama", "llama3.2")),
        ("ollama/gpt-oss:20b", ("ollama", "gpt-oss:20b")),
        ("openai/meta/any", ("openai", "meta/any")),
    ],
)
def test_a_model_is_found_by_its_provider_or_by_its_family(name: str | None, expected: tuple[str, str]) -> None:
    assert served(build_catalog(ALL), name) == expected


@pytest.mark.parametrize("name", ["mistral", "nobody/gpt", "ollama/", "/", "openai"])
def test_a_name_that_nobody_of_several_is_known_for_is_not_found(name: str) -> None:
    with pytest.raises(errors.NotFound):
        build_catalog(ALL).model(name)


def test_where_there_is_one_provider_it_has_any_model() -> None:
    catalog = build_catalog([source("openai", "my-model")])
    assert served(catalog, None) == ("openai", "my-model")
    assert served(catalog, "claude-opus-4-5") == ("openai", "claude-opus-4-5")
    assert served(catalog, "meta-llama/llama-3") == ("openai", "meta-llama/llama-3")


def test_the_default_of_a_provider_is_its_own_whatever_its_name() -> None:
    catalog = build_catalog([source("openai", "my-model"), source("anthropic", "gpt-like")])
    assert served(catalog, "my-model") == ("openai", "my-model")
    assert served(catalog, "gpt-like") == ("anthropic", "gpt-like")


def test_echo_alone_has_no_other_model() -> None:
    catalog = build_catalog(
        [ConfiguredProvider(EchoProvider(), price=Price(0, 0, 0), default_model="echo", only_default=True)]
    )
    assert catalog.model(None) is catalog.model("echo")
    assert catalog.model("echo").price == Price(0, 0, 0)
    for name in ("gpt-4o", "echo/other"):
        with pytest.raises(errors.NotFound):
            catalog.model(name)


def test_names_are_remembered_but_not_without_end() -> None:
    catalog = build_catalog(ALL)
    first = catalog.model("gpt-0")
    assert catalog.model("gpt-0") is first
    for number in range(1, MAX_CACHED_MODELS + 1):
        catalog.model(f"gpt-{number}")
    assert catalog.model("gpt-0") is not first


def test_what_the_operator_says_of_a_model_holds(tmp_path: Path) -> None:
    catalog = build(
        tmp_path,
        """
        default = "fast"
        [models.fast]
        provider = "ollama"
        model = "llama3.2"
        aliases = ["quick", "older"]
        context_window = 8192
        limit_name = "max_new_tokens"
        sampling = ["temperature"]
        weight = "0.125"
        price = { input = 0.15, cached_input = "0.075", output = 1, cache_write = 0.1875 }
        bills_unseen = true
        overhead = 1
        overhead_with_tools = 2
        image_tokens = 3
        least_output = 4
        fallbacks = ["gpt-4o", "ollama/other"]
        """,
    )
    model = catalog.model(None)
    assert (model.name, model.upstream_name, model.provider.name) == ("fast", "llama3.2", "ollama")
    assert (model.context_window, model.limit_name, model.sampling) == (
        8192,
        "max_new_tokens",
        frozenset({"temperature"}),
    )
    assert (model.weight_milli, model.price) == (125, Price(150_000, 75_000, 1_000_000, 187_500))
    assert (model.overhead, model.overhead_with_tools, model.image_tokens, model.least_output) == (1, 2, 3, 4)
    assert (model.bills_hidden_output, model.fallbacks) == (True, ("gpt-4o", "ollama/other"))


def test_a_described_model_cannot_be_had_under_another_name_for_less(tmp_path: Path) -> None:
    catalog = build(tmp_path, '[models.dear]\nprovider = "openai"\nmodel = "gpt-4o"\naliases = ["best"]\nweight = 5')
    dear = catalog.model("dear")
    assert dear.weight_milli == 5_000
    for name in ("best", "gpt-4o", "openai/gpt-4o", "openai/GPT-4o"):
        assert catalog.model(name) is dear, name
    assert catalog.model("gpt-4o-mini").weight_milli == 1_000


def test_ollama_has_the_latest_of_a_model_under_its_bare_name_too(tmp_path: Path) -> None:
    text = '[models.one]\nprovider = "ollama"\nmodel = "phi4"\n[models.two]\nprovider = "ollama"\nmodel = "qwq:latest"'
    catalog = build(tmp_path, text)
    for name in ("ollama/phi4:latest", "ollama/Phi4:LATEST", "ollama/phi4"):
        assert catalog.model(name) is catalog.model("one"), name
    assert catalog.model("ollama/qwq") is catalog.model("two")
    assert catalog.model("ollama/phi4:14b").name == "ollama/phi4:14b"


DEAR = '[models.dear]\nprovider = "openai"\nmodel = "gpt-4o"\nweight = 5\nfallbacks = ["gpt-5"]'
PUBLISHED = (
    ConfiguredProvider(EchoProvider(name="openai"), "openai"),
    ConfiguredProvider(EchoProvider(name="house")),
)


def test_a_dated_variant_of_a_described_model_is_that_model_but_asked_for_by_its_own_name(tmp_path: Path) -> None:
    catalog = build(tmp_path, DEAR, PUBLISHED)
    dear = catalog.model("dear")
    for name in ("gpt-4o-2024-11-20", "openai/gpt-4o-2024-11-20"):
        assert catalog.model(name) == replace(dear, upstream="gpt-4o-2024-11-20")
    for name in ("gpt-4o-2024-05-13", "gpt-4o-mini", "house/gpt-4o-2024-11-20"):
        assert catalog.model(name).name == name


def test_what_is_published_as_no_model_is_no_variant_of_another_such(tmp_path: Path) -> None:
    catalog = build(tmp_path, '[models.own]\nprovider = "openai"\nmodel = "of-our-own"\nweight = 5', PUBLISHED)
    assert catalog.model("openai/another").weight_milli == 1_000


def test_a_variant_with_a_description_of_its_own_is_as_described(tmp_path: Path) -> None:
    own = '\n[models.dated]\nprovider = "openai"\nmodel = "gpt-4o-2024-11-20"\nweight = 7'
    catalog = build(tmp_path, DEAR + own, PUBLISHED)
    assert catalog.model("openai/gpt-4o-2024-11-20") is catalog.model("dated")
    assert catalog.model("gpt-4o-2024-08-06").weight_milli == 5_000


def test_a_closed_catalog_has_no_variants_that_it_does_not_name(tmp_path: Path) -> None:
    catalog = build(tmp_path, f"closed = true\n{DEAR}".replace('fallbacks = ["gpt-5"]', ""), PUBLISHED)
    with pytest.raises(errors.NotFound):
        catalog.model("gpt-4o-2024-11-20")


def test_what_is_too_long_to_be_a_name_is_neither_looked_for_nor_remembered() -> None:
    looked_for: list[str] = []

    def find(name: str) -> Model:
        looked_for.append(name)
        return Model(name, EchoProvider())

    catalog = Catalog("m", find)
    assert catalog.model("m" * MAX_NAME_LENGTH).name == "m" * MAX_NAME_LENGTH
    with pytest.raises(errors.ModelNotFound):
        catalog.model("m" * (MAX_NAME_LENGTH + 1))
    assert looked_for == ["m" * MAX_NAME_LENGTH]


def test_what_is_not_said_is_as_usual(tmp_path: Path) -> None:
    model = build(tmp_path, '[models.fast]\nprovider = "ollama"').model("fast")
    assert (model.overhead, model.overhead_with_tools) == (OVERHEAD, OVERHEAD_WITH_TOOLS) == (64, 600)
    assert (model.upstream_name, model.context_window, model.price) == ("fast", MAX_CONTEXT, None)
    assert (model.least_output, model.image_tokens, model.weight_milli) == (MIN_OUTPUT, IMAGE_TOKENS, 1_000)
    assert (model.sampling, model.limit_name, model.bills_hidden_output, model.fallbacks) == (None, None, False, ())


def test_a_closed_catalog_has_no_models_but_its_own(tmp_path: Path) -> None:
    catalog = build(tmp_path, 'closed = true\n[models.fast]\nprovider = "openai"\nmodel = "gpt-4o-mini"')
    assert catalog.model(None).name == catalog.model("gpt-4o-mini").name == "fast"
    for name in ("gpt-4o", "openai/gpt-4o", "llama3.2"):
        with pytest.raises(errors.NotFound):
            catalog.model(name)
    assert [one.model.name for one in catalog.listed_models()] == ["fast"]


def test_the_list_has_the_default_first_and_each_model_once(tmp_path: Path) -> None:
    fast = '[models.fast]\nprovider = "ollama"\naliases = ["quick"]\n'
    catalog = build(tmp_path, fast + '[models.mini]\nprovider = "openai"\nmodel = "gpt-4o-mini"')
    assert [(one.model.name, one.aliases) for one in catalog.listed_models()] == [
        ("mini", ()),
        ("fast", ("quick",)),
        ("claude-haiku-4-5", ()),
        ("llama3.2", ()),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x = 1", "x: there is no such setting"),
        ('default = "nothing"', "default: there is no such model"),
        ("default = 7", "default: "),
        ('[providers.groq]\nkind = "openai"\napi_key = "SECRET"', "providers.groq.api_key: there is no such setting"),
        ('[providers.groq]\nkind = "openai"\napi_key_env = "sk-SECRET"', "providers.groq.api_key_env: "),
        ('[providers.groq]\nkind = "other"', "providers.groq.kind: "),
        ('[providers.groq]\nbase_url = "http://x"', "providers.groq.kind: is missing"),
        ('[providers.groq]\nkind = "openai"\nbase_url = "ftp://x"', "providers.groq.base_url: "),
        ('[providers.groq]\nkind = "openai"\nbase_url = "https://me:SECRET@x"', "providers.groq.base_url: "),
        ('[providers.groq]\nkind = "openai"\nwires = ["telex"]', "providers.groq.wires.0: "),
        ('[providers.groq]\nkind = "openai"\nwires = []', "providers.groq.wires: "),
        ('[providers.x]\nkind = "openai"\nwires = ["embeddings"]\nwire = "responses"', "providers.x: wire must be one"),
        ('[providers.x]\nkind = "ollama"\nwires = ["embeddings"]', "providers.x: the kind ollama does not have wires"),
        ('[providers.x]\nkind = "echo"\nbase_url = "http://x"', "providers.x: the kind echo does not have base_url"),
        ('[providers."a/b"]\nkind = "echo"', "providers.a/b: "),
        ('models = "SECRET"', "models: must be a table"),
        ('[models]\nfast = "SECRET"', "models.fast: must be a table"),
        ("[models.fast]", "models.fast.provider: is missing"),
        ('[models.fast]\nprovider = "nobody"', "models.fast.provider: there is no such provider"),
        ('[models.fast]\nprovider = "openai"\nkey = "SECRET"', "models.fast.key: there is no such setting"),
        ('[models.fast]\nprovider = "openai"\nweight = 0.0005', "models.fast.weight: has more than 3 decimals"),
        ('[models.fast]\nprovider = "openai"\nweight = 1001', "models.fast.weight: must be from 0 to 1000"),
        ('[models.fast]\nprovider = "openai"\nweight = "SECRET"', "models.fast.weight: must be a decimal number"),
        ('[models.fast]\nprovider = "openai"\nweight = true', "models.fast.weight: must be a decimal number"),
        ('[models.fast]\nprovider = "openai"\nweight = nan', "models.fast.weight: must be from"),
        ('[models.fast]\nprovider = "openai"\nweight = -1', "models.fast.weight: must be from"),
        ('[models.fast]\nprovider = "openai"\nprice = { input = 1 }', "models.fast.price.output: is missing"),
        (
            '[models.fast]\nprovider = "openai"\nprice = { input = 0.0000001, output = 1 }',
            "models.fast.price.input: has more than 6 decimals",
        ),
        ('[models.fast]\nprovider = "openai"\ncontext_window = true', "models.fast.context_window: "),
        ('[models.fast]\nprovider = "openai"\ncontext_window = 0', "models.fast.context_window: "),
        ('[models.fast]\nprovider = "openai"\nleast_output = 0', "models.fast.least_output: "),
        ('[models.fast]\nprovider = "openai"\noverhead = -1', "models.fast.overhead: "),
        ('[models.fast]\nprovider = "openai"\nlimit_name = "a\\"b"', "models.fast.limit_name: "),
        ('[models.fast]\nprovider = "openai"\nsampling = ["mood"]', "models.fast.sampling.0: "),
        ('[models.fast]\nprovider = "openai"\naliases = ["a b"]', "models.fast.aliases.0: "),
        ('[models.fast]\nprovider = "openai"\naliases = ["fast"]', "models.fast.aliases.0: this name is taken"),
        (
            '[models.a]\nprovider = "openai"\naliases = ["x"]\n[models.b]\nprovider = "openai"\naliases = ["x"]',
            "models.b.aliases.0: this name is taken",
        ),
        ('[models.a]\nprovider = "openai"\nfallbacks = ["zzz"]', "models.a.fallbacks.0: there is no such model"),
        ('[models.a]\nprovider = "openai"\nfallbacks = ["a"]', "models.a.fallbacks.0: leads back"),
        (
            '[models.a]\nprovider = "openai"\nmodel = "gpt-4o"\nfallbacks = ["gpt-5", "openai/gpt-4o"]',
            "models.a.fallbacks.1: leads back",
        ),
        (
            '[models.a]\nprovider = "openai"\nfallbacks = ["b"]\n[models.b]\nprovider = "ollama"\nfallbacks = ["c"]\n'
            '[models.c]\nprovider = "ollama"\nfallbacks = ["gpt-5", "a"]',
            "models.a.fallbacks.0: leads back",
        ),
        ('default = "x"\ndefault = "SECRET"\n[models]', "not valid TOML: look at line 2"),
        ('default = "SECRET', "not valid TOML: look at"),
        ("closed = true", "names no model"),
    ],
)
def test_a_mistake_is_told_by_its_place_and_never_by_what_stands_there(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        build(tmp_path, text.replace("SECRET", SECRET))
    assert place in raised.value.detail
    assert SECRET not in raised.value.detail
    assert raised.value.__cause__ is None
    assert "\n" not in raised.value.detail


def test_a_catalog_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("absent", "binary", "."):
        with pytest.raises(ConfigurationError, match="TOLLKEEPER_CATALOG"):
            read_catalog(tmp_path / name)


def test_fallbacks_may_meet_again_as_long_as_none_leads_back(tmp_path: Path) -> None:
    catalog = build(
        tmp_path,
        '[models.a]\nprovider = "openai"\nfallbacks = ["b", "c"]\n'
        '[models.b]\nprovider = "ollama"\nfallbacks = ["c"]\n[models.c]\nprovider = "anthropic"',
    )
    assert catalog.model("a").fallbacks == ("b", "c")


@pytest.mark.parametrize(
    ("name", "image_tokens", "reasons"),
    [
        ("gpt-4o", 1_445, False),
        ("gpt-4.1-2025-04-14", 1_445, False),
        ("gpt-4o-mini", 48_169, False),
        ("ft:gpt-4o-mini:house", 48_169, False),
        ("gpt-4.1-mini", 2_489, False),
        ("gpt-4.1-nano", 3_779, False),
        ("o4-mini", 2_642, True),
        ("o1", 1_275, True),
        ("openai/o3", 1_275, True),
        ("gpt-5", 3_000, True),
        ("gpt-5.2", 3_000, True),
        ("gpt-5-mini", 2_489, True),
        ("gpt-5.4-nano", 6_150, True),
        ("gpt-5.4", 12_000, True),
        ("gpt-6-sol", 12_000, True),
        ("claude-3-haiku", 1_600, False),
        ("claude-opus-4-5-20251101", 1_600, False),
        ("claude-opus-4-20250514", 1_600, False),
        ("claude-sonnet-4", 1_600, False),
        ("claude-opus-4-7", 5_000, False),
        ("claude-opus-5", 5_000, False),
        ("gpt-4", 5_000, False),
        ("o9", 5_000, True),
        ("llava", 16_384, False),
        ("qwen/qwen2.5-vl-72b-instruct", 16_384, False),
    ],
)
def test_what_a_family_is_known_for(name: str, image_tokens: int, reasons: bool) -> None:
    least = MIN_REASONING_OUTPUT if reasons else MIN_OUTPUT
    assert traits_of(name) == (reasons, least, image_tokens)
    model = build_catalog(ALL).model(f"openai/{name}")
    assert (model.image_tokens, model.least_output, model.bills_hidden_output) == (image_tokens, least, reasons)


def test_the_catalog_gives_the_context_window(tmp_path: Path) -> None:
    model = build(tmp_path, '[models.m]\nprovider = "openai"\ncontext_window = 128000').model("m")
    assert model.context_window == 128_000
