"""The description of a kind of provider. Each provider's module defines one, and `registry.KINDS` lists them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import SecretStr

from tollkeeper.chat import Price
from tollkeeper.dialects.parameters import Treatment
from tollkeeper.providers.base import NO_EXTRA_PARAMETERS, Provider, Wire
from tollkeeper.settings import Settings

FREE = Price(0, 0, 0)

MakeWithKey = Callable[[SecretStr], Provider]
"""Makes the same provider with another API key, and with connections and a circuit breaker of its own."""


class ConfiguredProvider(NamedTuple):
    """A provider of this installation, and what is known of its models.

    `published_as` is its name in the published price data; `price` applies to models without a published price.
    `default_model` is the model for calls that name none. Its published models with `listed_names` are listed without
    being in the catalog. `only_default`: it has no models but its default and those in the catalog.
    `extra_parameters` says what is done with fields that its wire formats do not have. `with_key` is None for a
    provider that takes no API key. `has_key`: the operator has given it one.
    """

    provider: Provider
    published_as: str | None = None
    price: Price | None = None
    default_model: str | None = None
    listed_names: re.Pattern[str] | None = None
    only_default: bool = False
    extra_parameters: Mapping[str, Treatment] = NO_EXTRA_PARAMETERS
    with_key: MakeWithKey | None = None
    has_key: bool = False


class ProviderOptions(NamedTuple):
    """A provider as the operator's catalog describes it. None: not given."""

    name: str
    base_url: str | None = None
    api_key: SecretStr | None = None
    wires: frozenset[Wire] | None = None
    wire: Wire | None = None
    api_version: str | None = None
    knows_store: bool | None = None
    knows_stream_options: bool = True

    def key_or(self, default: str) -> str:
        """The API key, or the default where there is none."""
        return self.api_key.get_secret_value() if self.api_key is not None else default


@dataclass(frozen=True, slots=True)
class ProviderKind:
    """A kind of provider, by the name that the catalog's `kind` gives.

    `from_settings` returns the provider that the environment configures, or None; without it, only the catalog can
    configure one. `settings_with_key` returns the settings with another API key. `catalog_fields` are the fields that a
    catalog entry of this kind may have, `required_fields` those that it must have. `passes_extra`: it can be sent
    parameters that its wire format does not have. `model_names` matches the names of its models: a call of such a name,
    without a provider's name, goes to the provider that is named like the kind.
    """

    name: str
    from_catalog: Callable[[ProviderOptions, Settings], ConfiguredProvider]
    from_settings: Callable[[Settings], ConfiguredProvider | None] | None = None
    settings_with_key: Callable[[Settings, SecretStr], Settings] | None = None
    catalog_fields: frozenset[str] = frozenset()
    required_fields: tuple[str, ...] = ()
    passes_extra: bool = False
    model_names: re.Pattern[str] | None = None
    behind_breaker: bool = True
