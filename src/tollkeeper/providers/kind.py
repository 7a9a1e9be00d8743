"""The description of a kind of provider. Each provider's module defines one, and `registry.KINDS` lists them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tollkeeper.chat import Price
from tollkeeper.providers.base import Provider, Wire
from tollkeeper.settings import Settings

FREE = Price(0, 0, 0)


class ConfiguredProvider(NamedTuple):
    """A provider of this installation, and what is known of its models.

    `published_as` is its name in the published price data; `price` applies to models without a published price.
    `default_model` is the model for calls that name none. Its published models with `listed_names` are listed without
    being in the catalog. `only_default`: it has no models but its default and those in the catalog.
    """

    provider: Provider
    published_as: str | None = None
    price: Price | None = None
    default_model: str | None = None
    listed_names: re.Pattern[str] | None = None
    only_default: bool = False


class ProviderOptions(NamedTuple):
    """A provider as the operator's catalog describes it. None: not given; `api_key` is empty where there is no key."""

    name: str
    base_url: str | None = None
    api_key: str = ""
    wires: frozenset[Wire] | None = None
    wire: Wire | None = None


@dataclass(frozen=True, slots=True)
class ProviderKind:
    """A kind of provider, by the name that the catalog's `kind` gives.

    `from_settings` returns the provider that the environment configures, or None; without it, only the catalog can
    configure one. `catalog_fields` are the fields that a catalog entry of this kind may have. `model_names` matches the
    names of its models: a call of such a name, without a provider's name, goes to the provider that is named like the
    kind.
    """

    name: str
    from_catalog: Callable[[ProviderOptions, Settings], ConfiguredProvider]
    from_settings: Callable[[Settings], ConfiguredProvider | None] | None = None
    catalog_fields: frozenset[str] = frozenset()
    model_names: re.Pattern[str] | None = None
    behind_breaker: bool = True
