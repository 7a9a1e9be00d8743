"""Finds the models of this installation by name, among the configured providers and in the operator's catalog.

A name is looked up in the operator's catalog; then as a provider's default model; then as `provider/model`; then by the
model names of each kind of provider. If there is only one provider, it is called for any other name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.base import MAX_CONTEXT, Model
from tollkeeper.providers.catalog_file import CatalogFile, DeploymentEntry, ModelEntry, treatments_of
from tollkeeper.providers.deployments import Deployments, with_greatest_bounds
from tollkeeper.providers.kind import ConfiguredProvider
from tollkeeper.providers.model_traits import traits_of
from tollkeeper.providers.published import PublishedModels
from tollkeeper.providers.registry import KINDS

MAX_EMBEDDINGS_INPUT_TOKENS = 300_000
"""OpenAI's limit for all inputs of one embeddings call together; the published context window is that of one input."""

_MODEL_NAMES = {kind.name: kind.model_names for kind in KINDS if kind.model_names is not None}
_EMBEDDINGS = re.compile(r"text-embedding-")


class ListedModel(NamedTuple):
    """A model in the list of models, and its other names."""

    model: Model
    aliases: tuple[str, ...] = ()


class Resolver:
    """Finds models by name, among the configured providers and in the operator's file."""

    def __init__(self, configured: Mapping[str, ConfiguredProvider], file: CatalogFile) -> None:
        self._configured = configured
        self._file = file
        self._published = PublishedModels.load(
            one.published_as for one in configured.values() if one.published_as is not None
        )
        self._defaults: dict[str, ConfiguredProvider] = {}
        for one in configured.values():
            if one.default_model is not None:
                self._defaults.setdefault(one.default_model, one)
        self._aliases = _aliases(file)
        self._described = {name: self._describe(name, entry) for name, entry in file.models.items()}
        places = [place for model in reversed(self._described.values()) for place in _places(model)]
        self._by_identity = {_identity(model): model for model in places}
        self._by_published_model = {
            published: model
            for model in places
            if (published := self._published_model(configured[model.provider.name], model.upstream_name)) is not None
        }
        self._check_fallbacks()

    def find(self, name: str) -> Model | None:
        """The model of a name, or None. The catalog describes a model under all of its names.

        So it does a variant that is published as the same model, such as a dated one; the provider is called with the
        variant's own name.
        """
        named = self._described.get(self._aliases.get(name, name))
        if named is not None:
            return named
        configured, upstream = self._locate(name)
        if configured is None:
            return None
        model = self._derive(name, configured, upstream)
        if (described := self._by_identity.get(_identity(model))) is not None:
            return described
        if self._file.closed or (configured.only_default and upstream != configured.default_model):
            return None
        published = self._published_model(configured, upstream)
        if published is not None and (described := self._by_published_model.get(published)) is not None:
            return replace(described, upstream=upstream)
        return model

    def default_name(self) -> str:
        """The name of the model for calls that name none. Raises ConfigurationError."""
        given = self._file.default
        if given is not None:
            if self.find(given) is None:
                raise ConfigurationError("The catalog is not valid. default: there is no such model.")
            return given
        for name in self.usual_defaults():
            return name
        raise ConfigurationError("The catalog names no model, and no provider has a default model. Name one.")

    def usual_defaults(self) -> Iterator[str]:
        """The models for calls that name none, unless the operator names one: the first that can be called."""
        of_providers = [name for name, one in self._defaults.items() if not one.only_default]
        return (name for name in (*of_providers, *self._described, *self._defaults) if self.find(name) is not None)

    def switch_names(self, model: Model) -> tuple[str, ...]:
        """The names by which the model is switched off: that of the catalog; or, for a model that the catalog does not
        describe, `provider/model`, and the same for the published model of which it is a variant.
        """
        if model.name in self._described:
            return (model.name,)
        provider, upstream = _identity(model)
        published = self._published_model(self._configured[provider], model.upstream_name)
        of_published = () if published is None else (f"{provider}/{published[1].casefold()}",)
        return (f"{provider}/{upstream}", *of_published)

    def list_models(self) -> list[ListedModel]:
        listed = [ListedModel(model, tuple(self._file.models[name].aliases)) for name, model in self._described.items()]
        for one in self._configured.values():
            names = [one.default_model] if one.default_model is not None else []
            if one.listed_names is not None:
                names += self._published.model_names(one.published_as, one.listed_names)
            listed += [ListedModel(model) for name in names if (model := self.find(name)) and model.name == name]
        return list({one.model.name: one for one in reversed(listed)}.values())[::-1]

    def _locate(self, name: str) -> tuple[ConfiguredProvider | None, str]:
        """The provider of a model that is not in the catalog, or None, and the provider's name for the model."""
        if name in self._defaults:
            return self._defaults[name], name
        provider_name, _, upstream = name.partition("/")
        if upstream and provider_name in self._configured:
            return self._configured[provider_name], upstream
        for provider_name, pattern in _MODEL_NAMES.items():
            if pattern.match(name) and provider_name in self._configured:
                return self._configured[provider_name], name
        with_any_model = [one for one in self._configured.values() if not one.only_default]
        return (with_any_model[0], name) if len(with_any_model) == 1 else (None, name)

    def _published_model(self, configured: ConfiguredProvider, upstream: str) -> tuple[str, str] | None:
        """The provider's name and the published name of a model; None if it is not published."""
        published = self._published.canonical_name(configured.published_as, upstream)
        return None if published is None else (configured.provider.name, published)

    def _derive(self, name: str, configured: ConfiguredProvider, upstream: str) -> Model:
        """A model that the catalog does not describe: by its name, and by what is published."""
        context_window, price = self._published.look_up(configured.published_as, upstream)
        reasons, least_output, image_tokens = traits_of(upstream)
        if _EMBEDDINGS.match(upstream):
            context_window = MAX_EMBEDDINGS_INPUT_TOKENS
        return Model(
            name,
            configured.provider,
            upstream="" if upstream == name else upstream,
            context_window=context_window or MAX_CONTEXT,
            price=price or configured.price,
            least_output=least_output,
            image_tokens=image_tokens,
            bills_hidden_output=reasons,
            extra_parameters=configured.extra_parameters,
        )

    def _describe(self, name: str, entry: ModelEntry) -> Model:
        """A model of the catalog. What its entry leaves out is derived."""
        if entry.deployments is None:
            assert entry.provider is not None
            return self._describe_at(name, entry, DeploymentEntry(provider=entry.provider, model=entry.model))
        models = [
            self._describe_at(name, entry, one, f"deployments.{index}.") for index, one in enumerate(entry.deployments)
        ]
        if any(model.price != models[0].price for model in models):
            raise _mistake(name, "price", "is needed, because its deployments have different published prices")
        return Deployments(with_greatest_bounds(models), [one.share for one in entry.deployments]).models[0]

    def _describe_at(self, name: str, entry: ModelEntry, place: DeploymentEntry, path: str = "") -> Model:
        """A model of the catalog at one provider. `path` is where the provider is named."""
        if place.provider not in self._configured:
            raise _mistake(name, f"{path}provider", "there is no such provider")
        model = self._derive(name, self._configured[place.provider], place.model or name)
        given = {
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
        changes = {field: value for field, value in given.items() if value is not None}
        extra_parameters = {**model.extra_parameters, **treatments_of(entry.extra_parameters)}
        if entry.limit_name in extra_parameters:
            raise _mistake(name, "limit_name", "is also an extra parameter")
        return replace(
            model,
            weight_milli=entry.weight,
            fallbacks=tuple(entry.fallbacks),
            extra_parameters=extra_parameters,
            **changes,  # type: ignore[arg-type]
        )

    def _check_fallbacks(self) -> None:
        """Raises ConfigurationError for a fallback that is not a model, or that leads back to its own model."""
        for name, model in self._described.items():
            for index, fallback in enumerate(model.fallbacks):
                found = self.find(fallback)
                if found is None:
                    raise _mistake(name, f"fallbacks.{index}", "there is no such model")
                if self._leads_to(found, name, set()):
                    raise _mistake(name, f"fallbacks.{index}", "leads back to this model")

    def _leads_to(self, model: Model, name: str, seen: set[str]) -> bool:
        if model.name == name:
            return True
        if model.name in seen:
            return False
        seen.add(model.name)
        fallbacks = [self.find(fallback) for fallback in model.fallbacks]
        return any(self._leads_to(one, name, seen) for one in fallbacks if one is not None)


def _places(model: Model) -> list[Model]:
    """The model at each of its providers, for callers that name the provider, too."""
    if model.deployments is None:
        return [model]
    return [replace(one, deployments=None) for one in model.deployments.models]


def _identity(model: Model) -> tuple[str, str]:
    """Equal for two names of the same model. Some providers ignore case in names, and for Ollama a name without a tag
    has the tag `latest`.
    """
    return model.provider.name, model.upstream_name.casefold().removesuffix(":latest")


def _aliases(file: CatalogFile) -> dict[str, str]:
    """Each alias, with the name of its model. Raises ConfigurationError for an alias that is also another name."""
    aliases: dict[str, str] = {}
    for name, entry in file.models.items():
        for index, alias in enumerate(entry.aliases):
            if alias in file.models or alias in aliases:
                raise _mistake(name, f"aliases.{index}", "this name is taken")
            aliases[alias] = name
    return aliases


def _mistake(name: str, field: str, complaint: str) -> ConfigurationError:
    return ConfigurationError(f"The catalog is not valid. models.{name}.{field}: {complaint}.")
