"""The arguments and options of commands by which a quota is named."""

from typing import Annotated

import typer

WINDOWS = "minute|hour|day|week|month|total"

Email = Annotated[str | None, typer.Argument(metavar="EMAIL", show_default=False, help="The user whose quota it is.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", show_default=False, help="The tenant whose quota it is.")
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="ID", show_default=False, help="The API key whose quota it is.")
]
Group = Annotated[
    str | None,
    typer.Option("--group", metavar="NAME", show_default=False, help="The group of the tenant whose quota it is."),
]
Each = Annotated[
    str | None,
    typer.Option(
        "--each",
        metavar="user|key|conversation|tag:NAME",
        show_default=False,
        help="The template of the tenant: each of them has this quota, unless one of its own replaces it.",
    ),
]
Tag = Annotated[
    str | None,
    typer.Option("--tag", metavar="NAME=VALUE", show_default=False, help="The tag of the tenant whose quota it is."),
]
UnitName = Annotated[
    str,
    typer.Option(
        "--unit",
        metavar="tokens|usd|requests|concurrency",
        help="The unit of the quota; with usd, N is in micro-USD; with concurrency, in calls at the same time.",
    ),
]
UNTIL = "When it ends, as 2038-01-15T00:00:00Z; without an offset, in UTC."
Until = Annotated[str | None, typer.Option(metavar="TIME", show_default=False, help=UNTIL)]
WhenSpentName = Annotated[
    str | None,
    typer.Option(
        "--when-spent",
        metavar="block|fallback_model|report_only",
        show_default=False,
        help="What becomes of a call for which there is no room. Without it, that stays as it is.",
    ),
]
FallbackModel = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default=False, help="The model that answers, with --when-spent fallback_model."),
]
Window = Annotated[
    str | None,
    typer.Option(
        "--window",
        metavar=WINDOWS,
        show_default=False,
        help="Which quota; required if there are several or none.",
    ),
]
