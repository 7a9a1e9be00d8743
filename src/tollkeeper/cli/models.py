"""`tollkeeper models`: lists the models."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from tollkeeper.bootstrap.catalog import make_catalog
from tollkeeper.cli.command_settings import load_command_settings
from tollkeeper.cli.output import AsJson, print_json, print_table
from tollkeeper.providers.openai import make_openai

app = typer.Typer(add_completion=False)

COLUMNS = ("model", "provider", "also named")


@app.command()
def models(
    from_openai: Annotated[
        bool, typer.Option("--ask", help="Query OpenAI for the models that OPENAI_API_KEY may use, and list those.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models of the configured providers, the default first."""
    settings = load_command_settings()
    names: list[tuple[str, str, Sequence[str]]]
    if from_openai:
        names = [(name, "openai", ()) for name in asyncio.run(make_openai(settings).list_models())]
    else:
        listing = make_catalog(settings).listed_models()
        names = [(item.model.name, item.model.provider.name, item.aliases) for item in listing]
    if as_json:
        print_json(
            [{"model": model, "provider": provider, "aliases": list(aliases)} for model, provider, aliases in names]
        )
    else:
        print_table(COLUMNS, [(model, provider, ", ".join(aliases)) for model, provider, aliases in names])
