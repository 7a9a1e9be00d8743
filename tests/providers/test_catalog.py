"""The catalog: models are found by their names, and have the facts of the catalog file or of their family."""

from dataclasses import replace
from pathlib import Path

import pytest

from support.catalogs import THREE_PROVIDERS, build_catalog_from, configured
from tollkeeper import errors
from tollkeeper.chat import Price
from tollkeeper.dialects.parameters import DROP, PASS, REFUSE
from tollkeeper.providers.base import IMAGE_TOKENS, MAX_CONTEXT, MIN_OUTPUT, OVERHEAD, OVERHEAD_WITH_TOOLS, Model
from tollkeeper.providers.catalog import MAX_CACHED_MODELS, MAX_NAME_LENGTH, Catalog, build_catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.kind import ConfiguredProvider


def provider_and_model(catalog: Catalog, name: str | None) -> tuple[str, str]:
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
def test_a_model_is_found_by_its_provider_or_its_family(name: str | None, expected: tuple[str, str]) -> None:
    assert provider_and_model(build_catalog(THREE_PROVIDERS), name) == expected


@pytest.mark.parametrize("name", ["mistral", "nobody/gpt", "ollama/", "/", "openai"])
def test_a_name_that_matches_none_of_several_providers_is_not_found(name: str) -> None:
    with pytest.raises(errors.NotFound):
        build_catalog(THREE_PROVIDERS).model(name)


def test_a_single_provider_serves_any_model() -> None:
    catalog = build_catalog([configured("openai", "my-model")])
    assert provider_and_model(catalog, None) == ("openai", "my-model")
    assert provider_and_model(catalog, "claude-opus-4-5") == ("openai", "claude-opus-4-5")
    assert provider_and_model(catalog, "meta-llama/llama-3") == ("openai", "meta-llama/llama-3")


def test_the_default_model_of_a_provider_is_served_by_it_whatever_its_name() -> None:
    catalog = build_catalog([configured("openai", "my-model"), configured("anthropic", "gpt-like")])
    assert provider_and_model(catalog, "my-model") == ("openai", "my-model")
    assert provider_and_model(catalog, "gpt-like") == ("anthropic", "gpt-like")


def test_echo_alone_serves_no_other_model() -> None:
    catalog = build_catalog(
        [ConfiguredProvider(EchoProvider(), price=Price(0, 0, 0), default_model="echo", only_default=True)]
    )
    assert catalog.model(None) is catalog.model("echo")
    assert catalog.model("echo").price == Price(0, 0, 0)
    for name in ("gpt-4o", "echo/other"):
        with pytest.raises(errors.NotFound):
            catalog.model(name)


def test_a_limited_number_of_names_is_cached() -> None:
    catalog = build_catalog(THREE_PROVIDERS)
    first = catalog.model("gpt-0")
    assert catalog.model("gpt-0") is first
    for number in range(1, MAX_CACHED_MODELS + 1):
        catalog.model(f"gpt-{number}")
    assert catalog.model("gpt-0") is not first


def test_a_model_has_the_settings_of_the_catalog_file(tmp_path: Path) -> None:
    catalog = build_catalog_from(
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


def test_a_model_of_the_catalog_has_its_weight_under_every_name(tmp_path: Path) -> None:
    catalog = build_catalog_from(
        tmp_path, '[models.dear]\nprovider = "openai"\nmodel = "gpt-4o"\naliases = ["best"]\nweight = 5'
    )
    dear = catalog.model("dear")
    assert dear.weight_milli == 5_000
    for name in ("best", "gpt-4o", "openai/gpt-4o", "openai/GPT-4o"):
        assert catalog.model(name) is dear, name
    assert catalog.model("gpt-4o-mini").weight_milli == 1_000


def test_an_ollama_model_is_the_same_with_and_without_the_tag_latest(tmp_path: Path) -> None:
    text = '[models.one]\nprovider = "ollama"\nmodel = "phi4"\n[models.two]\nprovider = "ollama"\nmodel = "qwq:latest"'
    catalog = build_catalog_from(tmp_path, text)
    for name in ("ollama/phi4:latest", "ollama/Phi4:LATEST", "ollama/phi4"):
        assert catalog.model(name) is catalog.model("one"), name
    assert catalog.model("ollama/qwq") is catalog.model("two")
    assert catalog.model("ollama/phi4:14b").name == "ollama/phi4:14b"


DEAR = '[models.dear]\nprovider = "openai"\nmodel = "gpt-4o"\nweight = 5\nfallbacks = ["gpt-5"]'
PROVIDERS = (
    ConfiguredProvider(EchoProvider(name="openai"), "openai"),
    ConfiguredProvider(EchoProvider(name="house")),
)


def test_a_dated_variant_has_the_settings_of_its_model_but_its_own_upstream_name(tmp_path: Path) -> None:
    catalog = build_catalog_from(tmp_path, DEAR, PROVIDERS)
    dear = catalog.model("dear")
    for name in ("gpt-4o-2024-11-20", "openai/gpt-4o-2024-11-20"):
        assert catalog.model(name) == replace(dear, upstream="gpt-4o-2024-11-20")
    for name in ("gpt-4o-2024-05-13", "gpt-4o-mini", "house/gpt-4o-2024-11-20"):
        assert catalog.model(name).name == name


def test_a_model_that_is_not_published_is_no_variant_of_another(tmp_path: Path) -> None:
    catalog = build_catalog_from(
        tmp_path, '[models.own]\nprovider = "openai"\nmodel = "of-our-own"\nweight = 5', PROVIDERS
    )
    assert catalog.model("openai/another").weight_milli == 1_000


def test_a_variant_with_its_own_entry_has_the_settings_of_that_entry(tmp_path: Path) -> None:
    own = '\n[models.dated]\nprovider = "openai"\nmodel = "gpt-4o-2024-11-20"\nweight = 7'
    catalog = build_catalog_from(tmp_path, DEAR + own, PROVIDERS)
    assert catalog.model("openai/gpt-4o-2024-11-20") is catalog.model("dated")
    assert catalog.model("gpt-4o-2024-08-06").weight_milli == 5_000


def test_a_closed_catalog_has_no_variants_without_an_entry(tmp_path: Path) -> None:
    catalog = build_catalog_from(tmp_path, f"closed = true\n{DEAR}".replace('fallbacks = ["gpt-5"]', ""), PROVIDERS)
    with pytest.raises(errors.NotFound):
        catalog.model("gpt-4o-2024-11-20")


def test_a_name_above_the_maximum_length_is_not_looked_up() -> None:
    names_looked_up: list[str] = []

    def find(name: str) -> Model:
        names_looked_up.append(name)
        return Model(name, EchoProvider())

    catalog = Catalog("m", find)
    assert catalog.model("m" * MAX_NAME_LENGTH).name == "m" * MAX_NAME_LENGTH
    with pytest.raises(errors.ModelNotFound):
        catalog.model("m" * (MAX_NAME_LENGTH + 1))
    assert names_looked_up == ["m" * MAX_NAME_LENGTH]


@pytest.mark.parametrize("name", ["my\x1b-model", "my-model\u202e", "my-model\n", "my\u200b-model"])
def test_a_name_that_is_not_printable_is_not_found_and_not_repeated(name: str) -> None:
    catalog = build_catalog([configured("openai", "my-model")])
    with pytest.raises(errors.ModelNotFound) as refused:
        catalog.model(name)
    assert refused.value.detail == errors.ModelNotFound.sentence


def test_settings_that_are_left_out_have_their_defaults(tmp_path: Path) -> None:
    model = build_catalog_from(tmp_path, '[models.fast]\nprovider = "ollama"').model("fast")
    assert (model.overhead, model.overhead_with_tools) == (OVERHEAD, OVERHEAD_WITH_TOOLS) == (64, 600)
    assert (model.upstream_name, model.context_window, model.price) == ("fast", MAX_CONTEXT, None)
    assert (model.least_output, model.image_tokens, model.weight_milli) == (MIN_OUTPUT, IMAGE_TOKENS, 1_000)
    assert (model.sampling, model.limit_name, model.bills_hidden_output, model.fallbacks) == (None, None, False, ())


def test_a_closed_catalog_has_only_the_models_of_its_file(tmp_path: Path) -> None:
    catalog = build_catalog_from(tmp_path, 'closed = true\n[models.fast]\nprovider = "openai"\nmodel = "gpt-4o-mini"')
    assert catalog.model(None).name == catalog.model("gpt-4o-mini").name == "fast"
    for name in ("gpt-4o", "openai/gpt-4o", "llama3.2"):
        with pytest.raises(errors.NotFound):
            catalog.model(name)
    assert [one.model.name for one in catalog.listed_models()] == ["fast"]


def test_the_default_model_is_listed_first_and_each_model_once(tmp_path: Path) -> None:
    fast = '[models.fast]\nprovider = "ollama"\naliases = ["quick"]\n'
    catalog = build_catalog_from(tmp_path, fast + '[models.mini]\nprovider = "openai"\nmodel = "gpt-4o-mini"')
    assert [(one.model.name, one.aliases) for one in catalog.listed_models()] == [
        ("mini", ()),
        ("fast", ("quick",)),
        ("claude-haiku-4-5", ()),
        ("llama3.2", ()),
    ]


def test_fallbacks_may_share_a_model_if_there_is_no_cycle(tmp_path: Path) -> None:
    catalog = build_catalog_from(
        tmp_path,
        '[models.a]\nprovider = "openai"\nfallbacks = ["b", "c"]\n'
        '[models.b]\nprovider = "ollama"\nfallbacks = ["c"]\n[models.c]\nprovider = "anthropic"',
    )
    assert catalog.model("a").fallbacks == ("b", "c")


def test_a_model_has_the_context_window_of_the_catalog_file(tmp_path: Path) -> None:
    model = build_catalog_from(tmp_path, '[models.m]\nprovider = "openai"\ncontext_window = 128000').model("m")
    assert model.context_window == 128_000


TWO_PLACES = """
[models.fast]
deployments = [
    { provider = "openai", model = "gpt-4o", share = 3 },
    { provider = "anthropic", model = "at-anthropic" },
]
price = { input = 1, output = 2 }
weight = 2
fallbacks = ["llama3.2"]
"""


def test_a_model_may_have_several_deployments_that_differ_only_in_where_they_are(tmp_path: Path) -> None:
    model = build_catalog_from(tmp_path, TWO_PLACES).model("fast")
    assert model.deployments is not None
    places = model.deployments.models
    assert [(one.provider.name, one.upstream_name) for one in places] == [
        ("openai", "gpt-4o"),
        ("anthropic", "at-anthropic"),
    ]
    same = [replace(one, provider=places[0].provider, upstream="") for one in places]
    assert same[0] == same[1]
    assert (model.name, model.weight_milli, model.fallbacks) == ("fast", 2_000, ("llama3.2",))
    assert model.price == Price(1_000_000, 1_000_000, 2_000_000)
    assert model.image_tokens == IMAGE_TOKENS, "the greater bound of the two"


@pytest.mark.parametrize("name", ["anthropic/at-anthropic", "openai/gpt-4o"])
def test_a_deployment_that_is_called_by_its_own_name_costs_what_the_model_costs(tmp_path: Path, name: str) -> None:
    """Else a caller could avoid the model's weight."""
    model = build_catalog_from(tmp_path, TWO_PLACES).model(name)
    assert f"{model.provider.name}/{model.upstream_name}" == name
    assert (model.name, model.weight_milli, model.deployments) == ("fast", 2_000, None)


def test_deployments_without_one_price_need_a_price(tmp_path: Path) -> None:
    providers = (
        configured("openai")._replace(price=Price(1, 1, 1)),
        configured("anthropic")._replace(price=Price(2, 2, 2)),
    )
    text = TWO_PLACES.replace("price = { input = 1, output = 2 }", "").replace('fallbacks = ["llama3.2"]', "")
    with pytest.raises(errors.ConfigurationError) as raised:
        build_catalog_from(tmp_path, text, providers)
    assert raised.value.detail == (
        "The catalog is not valid."
        " models.fast.price: is needed, because its deployments have different published prices."
    )


def test_the_extra_parameters_of_a_model_go_before_those_of_its_provider(tmp_path: Path) -> None:
    providers = (configured("openai")._replace(extra_parameters={"top_k": PASS, "min_p": DROP}),)
    text = '[models.strict]\nprovider = "openai"\nextra_parameters = { top_k = "refuse", seen = "pass" }'
    catalog = build_catalog_from(tmp_path, text, providers)
    assert catalog.model("strict").extra_parameters == {"top_k": REFUSE, "min_p": DROP, "seen": PASS}
    assert catalog.model("openai/other").extra_parameters == {"top_k": PASS, "min_p": DROP}
