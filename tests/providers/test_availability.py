"""What is switched off, and tenants' own providers, in the catalog: names, defaults, deployments, and keys."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from support.catalogs import build_catalog_from
from tollkeeper.errors import ModelSwitchedOff, ProviderAuthFailed, SealBroken, TenantKeyRefused
from tollkeeper.providers.base import Model, Provider
from tollkeeper.providers.catalog import Catalog, build_catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.kind import ConfiguredProvider
from tollkeeper.providers.tenant_providers import TenantKey, TenantProviders

OURS, OTHERS = 7, 8


@dataclass(frozen=True)
class KeyedProvider(EchoProvider):
    """A provider that knows its key, and notes its name when it is closed."""

    key: str = "operator"
    closed: list[str] = field(default_factory=list)

    async def close(self) -> None:
        self.closed.append(self.name)


def keyed(name: str, default_model: str | None = None) -> ConfiguredProvider:
    return ConfiguredProvider(
        KeyedProvider(name=name),
        name,
        default_model=default_model,
        with_key=lambda secret: KeyedProvider(name=name, key=secret.get_secret_value()),
    )


def tenant_key(provider: str, secret: str, tenant_id: int = OURS, key_id: str = "") -> TenantKey:
    return TenantKey(tenant_id, provider, key_id or secret, lambda: SecretStr(secret))


def broken_key(provider: str) -> TenantKey:
    def read() -> SecretStr:
        raise SealBroken

    return TenantKey(OURS, provider, "broken", read)


def key_of(model: Model) -> str:
    assert isinstance(model.provider, KeyedProvider)
    return model.provider.key


def two_providers() -> Catalog:
    return build_catalog([keyed("openai", "gpt-4o-mini"), keyed("anthropic", "claude-haiku-4-5")])


@pytest.mark.parametrize("spelling", ["gpt-4o", "openai/gpt-4o", "GPT-4o", "openai/GPT-4O", "gpt-4o-2024-08-06"])
async def test_no_other_spelling_reaches_a_model_that_is_off(spelling: str) -> None:
    catalog = build_catalog([keyed("openai", "gpt-4o-mini")])
    await catalog.configure({"openai/gpt-4o"}, (), ())
    with pytest.raises(ModelSwitchedOff):
        catalog.model(spelling)
    catalog.model("gpt-4o-mini")
    await catalog.configure((), (), ())
    catalog.model(spelling)


async def test_a_variant_that_is_off_leaves_the_model_on() -> None:
    catalog = build_catalog([keyed("openai", "gpt-4o-mini")])
    await catalog.configure({"gpt-4o-2024-08-06"}, (), ())
    catalog.model("gpt-4o")
    with pytest.raises(ModelSwitchedOff):
        catalog.model("openai/gpt-4o-2024-08-06")


async def test_a_model_of_the_catalog_is_off_by_all_of_its_names_and_its_twin_is_not(tmp_path: Path) -> None:
    catalog = build_catalog_from(
        tmp_path,
        """
        [models.fast]
        provider = "openai"
        model = "gpt-4o"
        aliases = ["quick"]

        [models.cheap]
        provider = "openai"
        model = "gpt-4o"
        """,
        [keyed("openai", "gpt-4o-mini")],
    )
    await catalog.configure({"quick"}, (), ())
    for name in ("fast", "quick", "openai/gpt-4o", "gpt-4o-2024-08-06"):
        if catalog.configured_model(name).name == "fast":
            with pytest.raises(ModelSwitchedOff):
                catalog.model(name)
    catalog.model("cheap")
    assert "fast" not in [one.model.name for one in catalog.listed_models()]
    assert "fast" in [one.model.name for one in catalog.all_models()]


async def test_the_default_moves_on_while_it_is_off() -> None:
    catalog = two_providers()
    await catalog.configure((), {"openai"}, ())
    assert (catalog.default_name, catalog.model(None).name) == ("claude-haiku-4-5", "claude-haiku-4-5")
    assert catalog.listed_models()[0].model.name == "claude-haiku-4-5"
    await catalog.configure((), {"openai", "anthropic"}, ())
    with pytest.raises(ModelSwitchedOff):
        catalog.model(None)
    assert catalog.listed_models() == ()
    assert catalog.default_provider.name == "openai"
    await catalog.configure((), (), ())
    assert catalog.model(None).name == "gpt-4o-mini"


async def test_an_off_name_without_a_model_is_kept_and_harms_nothing() -> None:
    catalog = build_catalog([keyed("openai", "gpt-4o-mini"), keyed("anthropic")])
    await catalog.configure({"gone/away", "x" * 300}, {"gone"}, [tenant_key("gone", "k")])
    assert catalog.model(None, OURS).name == "gpt-4o-mini"


async def test_a_tenants_key_is_used_for_its_provider_only_and_by_its_tenant_only() -> None:
    catalog = two_providers()
    await catalog.configure((), (), [tenant_key("openai", "ours"), tenant_key("openai", "others", OTHERS)])
    assert key_of(catalog.model("gpt-4o", OURS)) == "ours"
    assert key_of(catalog.model("gpt-4o", OTHERS)) == "others"
    assert key_of(catalog.model("gpt-4o", 9)) == key_of(catalog.model("gpt-4o")) == "operator"
    assert key_of(catalog.model("claude-haiku-4-5", OURS)) == "operator"
    assert catalog.model("gpt-4o", OURS).with_tenant_key
    assert not catalog.model("gpt-4o", 9).with_tenant_key
    assert catalog.model("gpt-4o", OURS) is catalog.model("gpt-4o", OURS)
    assert catalog.model("gpt-4o", OURS).provider is catalog.model("gpt-5", OURS).provider


async def test_a_key_that_cannot_be_decrypted_is_never_replaced_by_the_operators() -> None:
    catalog = two_providers()
    await catalog.configure((), (), [broken_key("openai")])
    for _ in range(2):
        with pytest.raises(TenantKeyRefused):
            catalog.model("gpt-4o", OURS)
    assert key_of(catalog.model("gpt-4o", OTHERS)) == "operator"


async def test_a_provider_that_takes_no_key_any_more_is_not_called_with_the_operators() -> None:
    catalog = build_catalog([ConfiguredProvider(EchoProvider(name="openai"), default_model="m")])
    await catalog.configure((), (), [tenant_key("openai", "ours")])
    with pytest.raises(TenantKeyRefused):
        catalog.model(None, OURS)
    assert list(catalog.providers_with_keys) == []


SPREAD = """
[models.m]
deployments = [{provider = "one"}, {provider = "two"}]
price = {input = 1, output = 1}
"""


async def test_deployments_of_a_tenant_have_its_keys_and_its_pauses(tmp_path: Path) -> None:
    catalog = build_catalog_from(tmp_path, SPREAD, [keyed("one"), keyed("two")])
    await catalog.configure((), (), [tenant_key("one", "ours")])
    ours = catalog.model("m", OURS).deployments
    others = catalog.model("m", OTHERS).deployments
    assert ours is not None
    assert others is not None
    assert {key_of(model) for model in ours.models} == {"ours", "operator"}
    (own,) = (model for model in ours.models if model.with_tenant_key)
    ours.record_failure(own, ProviderAuthFailed())
    assert ours.another({"two"}) is None
    assert others.another({"two"}) is not None
    (shared,) = (model for model in ours.models if not model.with_tenant_key)
    ours.record_failure(shared, ProviderAuthFailed())
    assert others.another({"one"}) is None


async def test_deployments_at_a_provider_that_is_off_or_whose_key_is_broken_are_left_out(tmp_path: Path) -> None:
    catalog = build_catalog_from(tmp_path, SPREAD, [keyed("one"), keyed("two")])
    await catalog.configure((), {"one"}, ())
    model = catalog.model("m")
    assert model.deployments is not None
    assert [one.provider.name for one in model.deployments.models] == ["two"]
    await catalog.configure((), (), [broken_key("two")])
    model = catalog.model("m", OURS)
    assert model.deployments is not None
    assert [one.provider.name for one in model.deployments.models] == ["one"]
    await catalog.configure((), {"one"}, [broken_key("two")])
    with pytest.raises(TenantKeyRefused):
        catalog.model("m", OURS)


async def test_a_provider_whose_key_stays_is_kept_and_a_replaced_one_is_closed_later() -> None:
    now = [0.0]
    made: list[KeyedProvider] = []

    def make(secret: SecretStr) -> Provider:
        made.append(KeyedProvider(name="p", key=secret.get_secret_value()))
        return made[-1]

    providers = TenantProviders({"p": make}, now=lambda: now[0])
    first = providers.replace([tenant_key("p", "old"), tenant_key("p", "other", OTHERS)])
    old, other = first[OURS]["p"].get(), first[OTHERS]["p"].get()
    second = providers.replace([tenant_key("p", "new"), tenant_key("p", "other", OTHERS)])
    assert second[OTHERS]["p"].get() is other
    assert second[OURS]["p"].get() is not old
    await providers.close_retired()
    assert not made[0].closed
    now[0] = 20_000.0
    await providers.close_retired()
    assert [one.closed for one in made] == [["p"], [], []]
    await providers.close()
    assert all(one.closed == ["p"] for one in made)
