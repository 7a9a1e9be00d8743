"""The caller of an administrative endpoint, as a type for its signature, which is the access rule."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Request, Response
from pydantic import BaseModel

from tollkeeper.administration.administrator import Administrator
from tollkeeper.api import strict_json
from tollkeeper.api.admin.idempotency import PLANNED, Repeatable, find_response, replace_plan, store_response
from tollkeeper.api.admin.query_parameters import require_known_parameters
from tollkeeper.api.bearer import client_address
from tollkeeper.api.dependencies import AuthenticatedUser, Services, ServicesDep, SessionDep, require_access, scope_of
from tollkeeper.api.middleware import read_body
from tollkeeper.errors import Forbidden, InvalidRequest, PreconditionFailed, TotpEnrolmentRequired
from tollkeeper.principal import Access, Principal, Role
from tollkeeper.telemetry.correlation import correlation_id

MAX_BODY_BYTES = 64 * 1024
JSON = "application/json"
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Sent = TypeVar("Sent")
Result = TypeVar("Result")
Plan = TypeVar("Plan", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class AdminCaller:
    """An administrator, and the request that they have sent."""

    admin: Administrator
    principal: Principal
    request: Request
    services: Services

    async def read(self, kind: type[Sent]) -> Sent:
        """The body of the request, strictly. Raises InvalidJson, InvalidRequest, BodyTooLarge, Unauthenticated."""
        return strict_json.decode(kind, await self._read_body())

    async def once(
        self, kind: type[Sent], act: Callable[[Sent], Awaitable[BaseModel]], *, status: int = 201
    ) -> Response:
        """Read the body, act on it, and respond; with an Idempotency-Key that the caller has used before, respond as
        then, without acting. The response is stored in the transaction of the act.

        Raises what `read` raises; IdempotencyMismatch if the key was used with another request.
        """
        sent, repeatable = await self._read_repeatable(kind)
        if repeatable is None:
            return _json_response(status, _encode(await act(sent)))
        session, keys, now_ms = self.admin.session, self.services.data_keys, self.admin.now_ms
        stored = await find_response(session, keys, repeatable, now_ms)
        if stored is not None:
            return _json_response(*stored)
        rendered = _encode(await act(sent))
        await store_response(session, keys, repeatable, status, rendered, now_ms)
        return _json_response(status, rendered)

    async def once_planned(
        self,
        kind: type[Sent],
        plan: Callable[[Sent], Awaitable[Plan]],
        apply: Callable[[Plan], Awaitable[BaseModel]],
        plan_kind: type[Plan],
        *,
        status: int = 200,
    ) -> Response:
        """As `once`, for an act on the ledger, which commits for itself. What `plan` returns and notes is committed
        before `apply`; it is stored with the idempotency key, and a repeated request only applies it again, if the
        first has not come to its end. So `apply` must act once, however often it is called with the same plan.
        """
        sent, repeatable = await self._read_repeatable(kind)
        if repeatable is None:
            planned = await plan(sent)
            await self.admin.commit()
            return _json_response(status, _encode(await apply(planned)))
        session, keys, now_ms = self.admin.session, self.services.data_keys, self.admin.now_ms
        stored = await find_response(session, keys, repeatable, now_ms)
        if stored is None:
            planned = await plan(sent)
            await store_response(session, keys, repeatable, PLANNED, msgspec.json.encode(planned), now_ms)
        elif stored[0] == PLANNED:
            planned = msgspec.json.decode(stored[1], type=plan_kind)
        else:
            return _json_response(*stored)
        await self.admin.commit()
        rendered = _encode(await apply(planned))
        await replace_plan(session, keys, repeatable, status, rendered)
        return _json_response(status, rendered)

    async def _read_repeatable(self, kind: type[Sent]) -> tuple[Sent, Repeatable | None]:
        """The body of the request, and what identifies it if it has an Idempotency-Key."""
        key = self.request.headers.get("idempotency-key")
        if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
            raise InvalidRequest("An Idempotency-Key has 1 to 255 printable ASCII characters.")
        body = await self._read_body()
        if not body and not getattr(kind, "__struct_fields__", ()):  # nothing is asked for, so nothing need be sent
            body = b"{}"
        sent = strict_json.decode(kind, body)
        if key is None:
            return sent, None
        path = self.request.url.path.encode()
        what = self.principal.role.encode() + b" " + self.request.method.encode() + b" " + path
        fingerprint = hashlib.sha256(what + b"\n" + body).hexdigest()
        return sent, Repeatable(self.principal, key, fingerprint)

    def require_match(self, present: BaseModel) -> None:
        """Raises PreconditionFailed if the request has an If-Match without the ETag of the present representation."""
        wanted = self.request.headers.get("if-match")
        if wanted is not None and wanted.strip() != "*" and etag(present) not in re.findall(r'"[^"]*"', wanted):
            raise PreconditionFailed

    async def outside_transaction(self, work: Awaitable[Result]) -> Result:
        """Wait for something slow, which needs no database, while no transaction is open. The account is checked anew
        after it. Raises what the work raises; Unauthenticated.
        """
        await self.admin.commit()
        self.admin.session.expire_all()
        result = await work
        await self.services.authenticator.load_account(self.admin.session, self.principal)
        return result

    async def _read_body(self) -> bytes:
        return await self.outside_transaction(read_body(self.request.scope, self.request.receive, MAX_BODY_BYTES))


def require_role(role: Role) -> Callable[..., Awaitable[AdminCaller]]:
    """A dependency that authenticates the caller, who must have this role or a higher one. It raises as
    `require_access` does; Forbidden without the role; TotpEnrolmentRequired; InvalidRequest for an act with a query
    parameter that its endpoint does not have.
    """

    async def get_caller(
        request: Request,
        services: ServicesDep,
        session: SessionDep,
        caller: Annotated[AuthenticatedUser, Depends(require_access(Access.ADMIN))],
    ) -> AdminCaller:
        principal = caller.principal
        if principal.role.rank < role.rank:
            raise Forbidden
        needs_totp = principal.role is Role.OPERATOR and services.settings.require_operator_totp
        if needs_totp and not await services.second_factors.is_confirmed(session, principal.user_id):
            raise TotpEnrolmentRequired
        require_known_parameters(request)
        admin = Administrator(
            session=session,
            audit_log=services.audit_log,
            name=f"user:{principal.user_id}",
            role=principal.role,
            scope=scope_of(principal, Access.ADMIN),
            now_ms=services.clock.now_ms(),
            tenant_id=principal.tenant_id,
            user_id=principal.user_id,
            is_fresh=services.authenticator.is_fresh(principal),
            address=client_address(request.scope),
            correlation_id=correlation_id.get(),
        )
        return AdminCaller(admin, principal, request, services)

    return get_caller


TenantAdmin = Annotated[AdminCaller, Depends(require_role(Role.TENANT_ADMIN))]
"""An administrator of their own tenant, or an operator."""
Operator = Annotated[AdminCaller, Depends(require_role(Role.OPERATOR))]
"""An administrator of the whole installation."""


def etag(present: BaseModel) -> str:
    """The ETag (RFC 9110, 8.8.3) of an object's representation."""
    return f'"{hashlib.sha256(_encode(present)).hexdigest()[:32]}"'


def changes_in(sent: msgspec.Struct) -> dict[str, Any]:
    """The fields that a PATCH has sent. An absent field stays as it is; null is a value."""
    fields = ((name, getattr(sent, name)) for name in sent.__struct_fields__)
    return {name: value for name, value in fields if value is not msgspec.UNSET}


def _encode(model: BaseModel) -> bytes:
    return model.model_dump_json().encode()


def _json_response(status: int, body: bytes) -> Response:
    return Response(body, status, media_type=JSON)
