"""Builds the catalog of the configured providers. `tollkeeper models` loads this without the server.

`providers.registry` lists the kinds of providers.
"""

from functools import partial
from typing import NamedTuple

from pydantic import SecretStr

from tollkeeper.errors import ConfigurationError
from tollkeeper.providers.base import Provider, Wire
from tollkeeper.providers.breaker import CircuitBreaker
from tollkeeper.providers.catalog import Catalog, build_catalog
from tollkeeper.providers.catalog_file import CatalogFile, ProviderEntry, read_catalog, treatments_of
from tollkeeper.providers.echo import make_echo
from tollkeeper.providers.kind import ConfiguredProvider, ProviderKind, ProviderOptions
from tollkeeper.providers.registry import KINDS, KINDS_BY_NAME
from tollkeeper.settings import Settings
from tollkeeper.settings.variables import read_variable


class _Made(NamedTuple):
    """A provider with what it was made of: from the settings nothing that changes, else its entry and its API key."""

    provider: ConfiguredProvider
    entry: ProviderEntry | None = None
    key: SecretStr | None = None


class CatalogSource:
    """Makes the catalog, and again when the operator's file has changed. A provider whose entry and API key are the
    same stays the same, with its connections and circuits; so do those of the settings.
    """

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}

    def make(self, settings: Settings) -> Catalog:
        """The catalog of the providers in the settings and in the operator's file; without any, of `echo` alone.

        Raises ConfigurationError.
        """
        file = read_catalog(settings.catalog) if settings.catalog is not None else CatalogFile()
        made: dict[str, _Made] = {}
        for kind in KINDS:
            one = self._from_settings(settings, kind)
            if one is not None:
                made[one.provider.name] = _Made(one)
        made |= {name: self._from_entry(settings, name, entry) for name, entry in file.providers.items()}
        if not made:
            made["echo"] = self._made.get("echo") or _Made(make_echo(settings))
        catalog = build_catalog((one.provider for one in made.values()), file)
        self._made = made
        return catalog

    def _from_settings(self, settings: Settings, kind: ProviderKind) -> ConfiguredProvider | None:
        one = kind.from_settings(settings) if kind.from_settings is not None else None
        if one is None:
            return None
        before = self._made.get(one.provider.name)
        if before is not None and before.entry is None:
            return before.provider
        return _with_breaker(settings, kind, one)._replace(
            with_key=partial(_make_from_settings, settings, kind) if kind.settings_with_key is not None else None,
            has_key=kind.settings_with_key is not None,
        )

    def _from_entry(self, settings: Settings, name: str, entry: ProviderEntry) -> _Made:
        """Raises ConfigurationError when the variable of its API key is not set."""
        key = _read_key(name, entry)
        before = self._made.get(name)
        if before is not None and (before.entry, before.key) == (entry, key):
            return before
        return _Made(_from_entry(settings, name, entry, key), entry, key)


def make_catalog(settings: Settings) -> Catalog:
    """The catalog of these settings, once. Raises ConfigurationError."""
    return CatalogSource().make(settings)


def _read_key(name: str, entry: ProviderEntry) -> SecretStr | None:
    """The API key of a provider of the operator's file, if it has one. Raises ConfigurationError."""
    key = read_variable(entry.api_key_env) if entry.api_key_env is not None else None
    if entry.api_key_env is not None and key is None:
        # Keys have lower-case letters: one that was put in the place of a name must not be shown.
        variable = entry.api_key_env if entry.api_key_env.isupper() else "The variable of the API key"
        raise ConfigurationError(f"{variable} is not set (named by providers.{name}.api_key_env).")
    return key


def _from_entry(settings: Settings, name: str, entry: ProviderEntry, key: SecretStr | None) -> ConfiguredProvider:
    """A provider of the operator's file."""
    options = ProviderOptions(
        name,
        base_url=entry.base_url,
        api_key=key,
        wires=frozenset(map(Wire, entry.wires)) if entry.wires is not None else None,
        wire=Wire(entry.wire) if entry.wire is not None else None,
        api_version=entry.api_version,
        knows_store=entry.knows_store,
        knows_stream_options=entry.knows_stream_options,
    )
    kind = KINDS_BY_NAME[entry.kind]
    configured = kind.from_catalog(options, settings)
    return _with_breaker(settings, kind, configured)._replace(
        extra_parameters=treatments_of(entry.extra_parameters),
        with_key=partial(_make_from_catalog, settings, kind, options) if "api_key_env" in kind.catalog_fields else None,
        has_key=key is not None,
    )


def _make_from_settings(settings: Settings, kind: ProviderKind, key: SecretStr) -> Provider:
    """The provider of the settings, with another API key."""
    assert kind.from_settings is not None
    assert kind.settings_with_key is not None
    configured = kind.from_settings(kind.settings_with_key(settings, key))
    assert configured is not None
    return _with_breaker(settings, kind, configured).provider


def _make_from_catalog(settings: Settings, kind: ProviderKind, options: ProviderOptions, key: SecretStr) -> Provider:
    """The provider of the operator's file, with another API key."""
    return _with_breaker(settings, kind, kind.from_catalog(options._replace(api_key=key), settings)).provider


def _with_breaker(settings: Settings, kind: ProviderKind, configured: ConfiguredProvider) -> ConfiguredProvider:
    """The same behind a circuit breaker, unless its kind needs none or the settings turn it off."""
    if settings.breaker_failures == 0 or not kind.behind_breaker:
        return configured
    breaker = CircuitBreaker(
        configured.provider,
        max_failures=settings.breaker_failures,
        period_s=settings.breaker_seconds,
        first_chunk_timeout_s=settings.timeout_seconds,
    )
    return configured._replace(provider=breaker)
