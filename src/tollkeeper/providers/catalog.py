"""Which models there are, who serves them, and what must be known of them before a call.

A name is looked for in the operator's catalog; then as `provider/model`; then by the family that it belongs to; and
where there is one provider alone, that one is asked for it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from tollkeeper.chat import Price
from tollkeeper.errors import ConfigurationError, ModelNotFound
from tollkeeper.providers.base import MAX_CONTEXT, Model, Provider
from tollkeeper.providers.catalog_file import CatalogFile, ModelEntry
from tollkeeper.providers.model_traits import traits
from tollkeeper.providers.published import Published

MODELS_REMEMBERED = 1_000
MAX_NAME_LENGTH = 200
EMBEDDINGS_AT_ONCE = 300_000
"""OpenAI's limit for all inputs of one embeddings call together; the published window is that of one input."""

_BY_NAME = (
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"(ft:)?(gpt-|o\d|chatgpt-|text-embedding-)"), "openai"),
)
_EMBEDDINGS = re.compile(r"text-embedding-")


class Source(NamedTuple):
    """A provider, and where to learn of its models.

    `published_as` is its name among the published prices; `price` holds for whatever has none. `default` is the model
    that it is asked for when nobody says. `listed`: its published models can be shown without being named in the
    catalog. `only_default`: it has no other models than its default and those in the catalog.
    """

    provider: Provider
    published_as: str | None = None
    price: Price | None = None
    default: str | None = None
    listed: bool = False
    only_default: bool = False


class Listing(NamedTuple):
    """A model that can be asked for, and its other names."""

    model: Model
    aliases: tuple[str, ...] = ()


class Catalog:
    """The models of all providers. A request without a model gets `default`."""

    def __init__(
        self,
        default: str,
        find: Callable[[str], Model | None],
        *providers: Provider,
        listed: Callable[[], Iterable[Listing]] = tuple,
    ) -> None:
        self.default = default
        self._find = lru_cache(maxsize=MODELS_REMEMBERED)(find)
        self._providers = providers
        self._list = listed
        self._listing: tuple[Listing, ...] = ()

    def model(self, name: str | None) -> Model:
        """The model of that name. Raises ModelNotFound, for what is too long to be a name without a look."""
        name = name or self.default
        model = self._find(name) if len(name) <= MAX_NAME_LENGTH else None
        if model is None:
            raise ModelNotFound
        return model

    @property
    def providers(self) -> tuple[str, ...]:
        """Who answers, by name."""
        return tuple(provider.name for provider in self._providers)

    @property
    def provider(self) -> Provider:
        """Who answers when nobody says which model. Raises ModelNotFound."""
        return self.model(None).provider

    def listing(self) -> tuple[Listing, ...]:
        """The models that can be shown, the default first. Others may be there too, for those who know their names."""
        if not self._listing:
            default = self.model(None)
            listed = {one.model.name: one for one in self._list()}
            self._listing = (listed.pop(default.name, Listing(default)), *listed.values())
        return self._listing

    async def close(self) -> None:
        for provider in self._providers:
            await provider.close()


def build_catalog(sources: Iterable[Source], file: CatalogFile | None = None) -> Catalog:
    """The catalog of these providers, and of what the operator has written.

    Raises ConfigurationError that names the place of a mistake.
    """
    by_name = {source.provider.name: source for source in sources}
    known = _Known(by_name, file or CatalogFile())
    providers = [source.provider for source in by_name.values()]
    return Catalog(known.default(), known.find, *providers, listed=known.listing)


class _Known:
    """Finds models by name."""

    def __init__(self, sources: Mapping[str, Source], file: CatalogFile) -> None:
        self._sources = sources
        self._file = file
        self._published = Published.load(one.published_as for one in sources.values() if one.published_as is not None)
        self._defaults: dict[str, Source] = {}
        for source in sources.values():
            if source.default is not None:
                self._defaults.setdefault(source.default, source)
        self._aliases = _aliases(file)
        self._models = {name: self._entry(name, entry) for name, entry in file.models.items()}
        self._served = {_served(model): model for model in reversed(self._models.values())}
        self._variants = {
            variant: model
            for model in reversed(self._models.values())
            if (variant := self._published_as(self._sources[model.provider.name], model.upstream_name)) is not None
        }
        self._check_fallbacks()

    def find(self, name: str) -> Model | None:
        """By whatever name it is asked for, a model in the catalog is the one that the catalog describes.

        A variant that is published as the same model, as one of a certain date, is that model too, but asked for by
        its own name.
        """
        named = self._models.get(self._aliases.get(name, name))
        if named is not None:
            return named
        source, upstream = self._place(name)
        if source is None:
            return None
        model = self._made(name, source, upstream)
        if (described := self._served.get(_served(model))) is not None:
            return described
        if self._file.closed or (source.only_default and upstream != source.default):
            return None
        variant = self._published_as(source, upstream)
        if variant is not None and (described := self._variants.get(variant)) is not None:
            return replace(described, upstream=upstream)
        return model

    def default(self) -> str:
        """The model for calls that do not say which. Raises ConfigurationError."""
        given = self._file.default
        if given is not None:
            if self.find(given) is None:
                raise ConfigurationError("The catalog is not valid. default: there is no such model.")
            return given
        of_providers = [name for name, source in self._defaults.items() if not source.only_default]
        for name in (*of_providers, *self._models, *self._defaults):
            if self.find(name) is not None:
                return name
        raise ConfigurationError("The catalog names no model, and there is no provider with one of its own.")

    def listing(self) -> list[Listing]:
        listed = [Listing(model, tuple(self._file.models[name].aliases)) for name, model in self._models.items()]
        for source in self._sources.values():
            names = [source.default] if source.default is not None else []
            names += self._published.names(source.published_as) if source.listed else []
            listed += [Listing(model) for name in names if (model := self.find(name)) and model.name == name]
        return list({one.model.name: one for one in reversed(listed)}.values())[::-1]

    def _place(self, name: str) -> tuple[Source | None, str]:
        """Who serves a model that is not in the catalog, and what it is called there."""
        if name in self._defaults:
            return self._defaults[name], name
        provider, _, upstream = name.partition("/")
        if upstream and provider in self._sources:
            return self._sources[provider], upstream
        for pattern, provider in _BY_NAME:
            if pattern.match(name) and provider in self._sources:
                return self._sources[provider], name
        with_any_model = [source for source in self._sources.values() if not source.only_default]
        return (with_any_model[0], name) if len(with_any_model) == 1 else (None, name)

    def _published_as(self, source: Source, upstream: str) -> tuple[str, str] | None:
        """The provider, and the name of the published model that this is."""
        published = self._published.name(source.published_as, upstream)
        return None if published is None else (source.provider.name, published)

    def _made(self, name: str, source: Source, upstream: str) -> Model:
        """A model as its name and what is published tell it."""
        context_window, price = self._published.look_up(source.published_as, upstream)
        reasons, least_output, image_tokens = traits(upstream)
        if _EMBEDDINGS.match(upstream):
            context_window = EMBEDDINGS_AT_ONCE
        return Model(
            name,
            source.provider,
            upstream="" if upstream == name else upstream,
            context_window=context_window or MAX_CONTEXT,
            price=price or source.price,
            least_output=least_output,
            image_tokens=image_tokens,
            bills_hidden_output=reasons,
        )

    def _entry(self, name: str, entry: ModelEntry) -> Model:
        """A model as the operator describes it; where nothing is said, as it is without."""
        if entry.provider not in self._sources:
            raise _wrong(name, "provider", "there is no such provider")
        model = self._made(name, self._sources[entry.provider], entry.model or name)
        said = {
            "context_window": entry.context_window,
            "limit_name": entry.limit_name,
            "sampling": None if entry.sampling is None else frozenset(entry.sampling),
            "price": None if entry.price is None else entry.price.price,
            "bills_hidden_output": entry.bills_hidden_output,
            "overhead": entry.overhead,
            "overhead_with_tools": entry.overhead_with_tools,
            "image_tokens": entry.image_tokens,
            "least_output": entry.least_output,
        }
        changes = {field: value for field, value in said.items() if value is not None}
        return replace(model, weight_milli=entry.weight, fallbacks=tuple(entry.fallbacks), **changes)  # type: ignore[arg-type]

    def _check_fallbacks(self) -> None:
        """Each must be a model here, and none may lead back to where it came from."""
        for name, model in self._models.items():
            for index, fallback in enumerate(model.fallbacks):
                found = self.find(fallback)
                if found is None:
                    raise _wrong(name, f"fallbacks.{index}", "there is no such model")
                if self._leads_to(found, name, set()):
                    raise _wrong(name, f"fallbacks.{index}", "leads back to this model")

    def _leads_to(self, model: Model, name: str, seen: set[str]) -> bool:
        if model.name == name:
            return True
        if model.name in seen:
            return False
        seen.add(model.name)
        following = [self.find(fallback) for fallback in model.fallbacks]
        return any(self._leads_to(one, name, seen) for one in following if one is not None)


def _served(model: Model) -> tuple[str, str]:
    """What makes it the same model under any name. Some providers do not tell large letters from small ones, and
    Ollama takes a name without a tag for the latest.
    """
    return model.provider.name, model.upstream_name.casefold().removesuffix(":latest")


def _aliases(file: CatalogFile) -> dict[str, str]:
    aliases: dict[str, str] = {}
    for name, entry in file.models.items():
        for index, alias in enumerate(entry.aliases):
            if alias in file.models or alias in aliases:
                raise _wrong(name, f"aliases.{index}", "this name is taken")
            aliases[alias] = name
    return aliases


def _wrong(name: str, field: str, complaint: str) -> ConfigurationError:
    return ConfigurationError(f"The catalog is not valid. models.{name}.{field}: {complaint}.")
