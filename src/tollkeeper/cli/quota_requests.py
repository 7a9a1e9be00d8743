"""`tollkeeper quota requests`, `approve` and `decline`: what users ask for."""

import asyncio
from typing import Annotated, Any

import typer

from tollkeeper.administration import quota_requests
from tollkeeper.administration.models import QuotaRequest, RequestStatus
from tollkeeper.cli.arguments import parse_choice, parse_number, parse_reason
from tollkeeper.cli.context import open_administration
from tollkeeper.cli.open_ledger import open_ledger
from tollkeeper.cli.output import AsJson, format_time, iso_time, print_json, print_line, print_table
from tollkeeper.cli.quota_arguments import parse_amount, parse_time
from tollkeeper.identity.models import User
from tollkeeper.quota.rules.operations import Balance

PROGRAM = "cli"
PAGE = 500
COLUMNS = (">id", "asked", "user", "window", ">tokens", "status", ">granted", "reason")

RequestId = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="The request, as listed.")]


def register(app: typer.Typer) -> None:
    app.command()(requests)
    app.command()(approve)
    app.command()(decline)


def requests(
    status: Annotated[
        str, typer.Option(metavar="pending|granted|declined|all", help="Only requests in this state.")
    ] = RequestStatus.PENDING.value,
    as_json: AsJson = False,
) -> None:
    """List the requests of users for more quota, the oldest first."""
    chosen = parse_choice(status, "status", [*(one.value for one in RequestStatus), "all"])
    wanted = None if chosen == "all" else RequestStatus(chosen)

    async def read() -> list[tuple[QuotaRequest, str]]:
        found: list[QuotaRequest] = []
        async with open_administration(PROGRAM) as administration:
            admin, after = administration.admin, 0
            while page := await quota_requests.list_requests(admin, None, wanted, after=after, limit=PAGE):
                found += page
                after = page[-1].id or 0
            return [(one, await _email(admin.session, one)) for one in found]

    listed = asyncio.run(read())
    if as_json:
        print_json([_record(*one) for one in listed])
    elif listed:
        print_table(COLUMNS, [_row(*one) for one in listed])
    else:
        print_line("There are no such requests.")


def approve(
    request_id: RequestId,
    tokens: Annotated[str | None, typer.Option(metavar="N", help="How many to grant. Default: all of them.")] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="The reason; the user sees it.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="When the grant ends. Default: its window.")] = None,
    as_json: AsJson = False,
) -> None:
    """Grant a request, or a part of it: the tokens are added to the current window."""
    number, amount = _parse_id(request_id), parse_amount(tokens, "--tokens") if tokens is not None else None
    text = parse_reason(reason) if reason is not None else None
    until_ms = parse_time(until, "--until")

    async def grant() -> tuple[QuotaRequest, str, Balance]:
        async with open_administration(PROGRAM) as administration:
            admin = administration.admin
            plan = await quota_requests.plan_grant(admin, number, amount, text, until_ms=until_ms)
            await admin.commit()
            async with open_ledger(administration.context.settings) as ledger:
                balance = await quota_requests.apply_grant(admin, ledger, number, plan)
            request = await quota_requests.get_request(admin, number)
            return request, await _email(admin.session, request), balance

    request, email, balance = asyncio.run(grant())
    if as_json:
        print_json(_record(request, email) | {"limit": balance.limit})
    else:
        print_line(
            f"{email} is granted {request.granted_tokens:,} of {request.tokens:,} tokens: the limit of the"
            f" {balance.period} window is now {balance.limit:,}."
        )


def decline(
    request_id: RequestId,
    reason: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="The reason; the user sees it.")],
    as_json: AsJson = False,
) -> None:
    """Decline a request."""
    number, text = _parse_id(request_id), parse_reason(reason)

    async def refuse() -> tuple[QuotaRequest, str]:
        async with open_administration(PROGRAM) as administration:
            request = await quota_requests.decline(administration.admin, number, text)
            return request, await _email(administration.admin.session, request)

    request, email = asyncio.run(refuse())
    if as_json:
        print_json(_record(request, email))
    else:
        print_line(f"The request of {email} for {request.tokens:,} tokens is declined.")


def _parse_id(text: str) -> int:
    return parse_number(text, "The id", 1, 2**31 - 1)


async def _email(session: Any, request: QuotaRequest) -> str:
    user = await session.get(User, request.user_id)
    return user.email if user is not None else f"user {request.user_id}"


def _row(request: QuotaRequest, email: str) -> tuple[str, ...]:
    granted = f"{request.granted_tokens:,}" if request.granted_tokens is not None else ""
    asked = format_time(request.created_ms)
    return str(request.id), asked, email, request.period, f"{request.tokens:,}", request.status, granted, request.reason


def _record(request: QuotaRequest, email: str) -> dict[str, Any]:
    return {
        "id": request.id,
        "asked_at": iso_time(request.created_ms),
        "user": email,
        "window": request.period,
        "tokens": request.tokens,
        "reason": request.reason,
        "status": request.status,
        "granted_tokens": request.granted_tokens,
        "decided_by": request.decided_by,
        "decision_reason": request.decision_reason,
    }
