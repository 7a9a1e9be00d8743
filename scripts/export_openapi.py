"""Writes the OpenAPI document of this code to a file: the console's types are generated from it.

Usage: python scripts/export_openapi.py FILE
"""

import sys
from pathlib import Path

import orjson
from fastapi import FastAPI
from pydantic import SecretStr

from tollkeeper.bootstrap.application import make_app
from tollkeeper.settings import Settings


def main() -> None:
    """Find the FastAPI application inside its middleware, and write what it describes."""
    settings = Settings(database_url="sqlite:///unused.db", signing_secret=SecretStr("unused" * 8))
    app = make_app(settings)
    while not isinstance(app, FastAPI):
        app = getattr(app, "_app", None) or app.app  # type: ignore[attr-defined]
    target = Path(sys.argv[1])
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(orjson.dumps(app.openapi()))


if __name__ == "__main__":
    main()
