"""Catalogs of echo providers, built from the text of a catalog file."""

from collections.abc import Iterable
from pathlib import Path

from tollkeeper.providers.catalog import Catalog, build_catalog
from tollkeeper.providers.catalog_file import read_catalog
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.kind import ConfiguredProvider


def configured(name: str, default: str | None = None) -> ConfiguredProvider:
    return ConfiguredProvider(EchoProvider(name=name), default_model=default)


THREE_PROVIDERS = (
    configured("openai", "gpt-4o-mini"),
    configured("anthropic", "claude-haiku-4-5"),
    configured("ollama", "llama3.2"),
)


def build_catalog_from(tmp_path: Path, text: str, providers: Iterable[ConfiguredProvider] = THREE_PROVIDERS) -> Catalog:
    path = tmp_path / "catalog.toml"
    path.write_text(text)
    return build_catalog(providers, read_catalog(path))
