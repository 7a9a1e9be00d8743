"""One connection of a WebSocket, and its turns: what `socket.py` describes."""

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec
import orjson
import structlog
from fastapi import WebSocket

from tollkeeper.api.attribution import attributed, attribution_of, name_group
from tollkeeper.api.bearer import client_address
from tollkeeper.api.dependencies import Services
from tollkeeper.api.middleware import MAX_BODY_BYTES
from tollkeeper.api.native import close_codes
from tollkeeper.api.native.exchange import NativeExchange
from tollkeeper.api.native.frame_channel import FrameChannel
from tollkeeper.api.native.model_call import chat_messages, make_call
from tollkeeper.api.native.parsed_request import ParsedRequest
from tollkeeper.api.native.socket_auth import (
    MAX_AUTH_FRAME_BYTES,
    authenticate_frame,
    repeats_authentication,
)
from tollkeeper.api.native.socket_frames import TurnFrame, read_cancel, read_id, read_token
from tollkeeper.api.native.socket_listener import TurnListener, error_frame, with_turn_id
from tollkeeper.errors import (
    Forbidden,
    InvalidJson,
    InvalidRequest,
    RateLimited,
    ShuttingDown,
    TollkeeperError,
    TurnInProgress,
    Unauthenticated,
)
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.results import IdempotentCall
from tollkeeper.principal import Access, Principal
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest
from tollkeeper.quota.rules.operations import Replayed
from tollkeeper.telemetry.correlation import correlation_id
from tollkeeper.telemetry.trace_context import join_trace
from tollkeeper.tenant_scope import TenantScope
from tollkeeper.worker_thread import run_by_size

SURFACE = "ws"
AUTH_TIMEOUT_S = 10.0
RECHECK_S = 15.0
"""How long a connection may be idle before its credential is checked again. While turns run, each checks it."""
MAX_BAD_FRAMES = 10

log = structlog.get_logger("tollkeeper.ws")


class SocketForm(NamedTuple):
    """The form of the frames at one path. `read_turn` reads a frame of a caller that starts a turn: it raises
    InvalidJson, InvalidRequest, Forbidden. `announces`: an authenticated client is sent `ready`.
    """

    path: str
    read_turn: Callable[[bytes, Principal], TurnFrame]
    announces: bool = True


class SocketConnection:
    """One client. `_caller` is authenticated in the handshake; None: by the first frame. `_task` runs the present turn,
    and `_listener` delivers its answer.
    """

    def __init__(
        self,
        websocket: WebSocket,
        services: Services,
        authenticated: tuple[str, Principal | None],
        form: SocketForm,
    ) -> None:
        self._form = form
        self._websocket, self._scope = websocket, websocket.scope
        self._channel = FrameChannel(websocket)
        self._services = services
        self._token, self._caller = authenticated
        self._bad_frames = 0
        self._closes_after_turn = False
        self._task: asyncio.Task[None] | None = None
        self._listener: TurnListener | None = None

    async def serve(self) -> None:
        """Raises WebSocketDisconnect when the client disconnects."""
        caller = self._caller or await self._read_auth_frame()
        if caller is None:
            return
        try:
            with self._services.throttle.open_socket(caller):
                if self._form.announces:
                    await self._channel.send(orjson.dumps({"type": "ready", "correlation_id": correlation_id.get()}))
                frame = await self._next_frame(caller)
                if self._caller is None or not await repeats_authentication(self._services, self._scope, frame, caller):
                    await self._handle_frame(frame, caller)
                while True:
                    await self._handle_frame(await self._next_frame(caller), caller)
        except RateLimited as error:
            await self._channel.send(error_frame(error))
            await self._channel.close(close_codes.TOO_FAST, "too many connections of this user")
        except Unauthenticated:
            await self._channel.close(close_codes.NOT_AUTHENTICATED, "unauthenticated")

    async def _read_auth_frame(self) -> Principal | None:
        """The principal of the first frame; None if it does not authenticate: then the connection is closed."""
        try:
            async with asyncio.timeout(AUTH_TIMEOUT_S):
                self._token = read_token(await self._channel.receive(MAX_AUTH_FRAME_BYTES))
            caller = await authenticate_frame(self._services, self._scope, self._token)
            caller.limits.require_surface(SURFACE)
            return caller
        except TimeoutError:
            await self._channel.close(close_codes.AUTH_TIMEOUT, f"no auth frame within {AUTH_TIMEOUT_S:.0f} s")
        except (Unauthenticated, InvalidJson):
            await self._channel.close(close_codes.NOT_AUTHENTICATED, "unauthenticated")
        except TollkeeperError as error:
            await self._channel.send(error_frame(error))
            codes = {Forbidden: close_codes.FORBIDDEN, RateLimited: close_codes.TOO_FAST}
            await self._channel.close(codes.get(type(error), close_codes.TRY_LATER), error.code)
        return None

    async def _next_frame(self, caller: Principal) -> bytes:
        """Wait for a frame, and check the credential again while none comes. Raises WebSocketDisconnect."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    return await self._channel.receive(MAX_BODY_BYTES)
            if not self._is_running and not await self._is_still_authenticated(caller):
                await self._channel.end(close_codes.NOT_AUTHENTICATED, "unauthenticated")

    async def _is_still_authenticated(self, caller: Principal) -> bool:
        """False once the credential has expired or was revoked, or its user or tenant was disabled."""
        try:
            (await self._authenticate()).limits.require_surface(SURFACE)
            async with self._services.database.session(TenantScope(caller.tenant_id)) as session:
                await self._services.authenticator.load_account(session, caller)
        except (Unauthenticated, Forbidden):
            return False
        except TollkeeperError:
            return True  # the database is unavailable: the next turn is refused for that
        return True

    def lets_turn_end(self) -> bool:
        """Called when the server stops. Returns whether a turn runs; if so, the connection closes when it ends."""
        self._closes_after_turn = self._is_running
        return self._closes_after_turn

    async def stop(self, *, cancelled: bool) -> None:
        """End the running turn and wait until it is settled. `cancelled` sends an error to the client first."""
        if self._task is None:
            return
        if cancelled:
            self._task.cancel()
        elif self._listener is not None:
            self._listener.disconnect()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _handle_frame(self, frame: bytes, caller: Principal) -> None:
        """Start or cancel a turn. Raises WebSocketDisconnect if the connection is closed for too many frames."""
        if (cancel := read_cancel(frame)) is not None:
            if self._listener is not None and cancel.id in (None, self._listener.id):
                self._listener.disconnect(cancelled=True)
            return
        try:
            await self._services.throttle.check(caller)
        except RateLimited as error:
            await self._refuse(caller, error, read_id(frame))
            await self._channel.end(close_codes.TOO_FAST, "rate limited")
        try:
            turn = await run_by_size(len(frame), self._form.read_turn, frame, caller)
        except TollkeeperError as error:
            await self._refuse(caller, error, read_id(frame))
            self._bad_frames += 1
            if self._bad_frames == MAX_BAD_FRAMES:
                await self._channel.end(close_codes.TOO_BAD, "too many bad frames")
            return
        if self._is_running:
            await self._refuse(caller, TurnInProgress(), turn.id)
            return
        self._listener = TurnListener(self._websocket, turn)
        self._task = asyncio.create_task(self._run_turn(turn, len(frame), self._listener))

    async def _authenticate(self) -> Principal:
        """Raises Unauthenticated as soon as the token is no longer valid, DatabaseUnavailable."""
        address = client_address(self._scope)
        return await self._services.authenticator.verify(self._token, Access.AI, address)

    async def _run_turn(self, turn: TurnFrame, size: int, listener: TurnListener) -> None:
        """One turn, from a frame of `size` bytes: verify the token again, make the call, and send the final frame."""
        caller = None
        try:
            caller = await attributed(self._services, await self._authenticate(), self._scope["headers"])
            caller = name_group(caller, turn.group)
            with self._services.call_events.record(caller, SURFACE, join_trace(self._scope["headers"])) as record:
                caller.limits.require_surface(SURFACE)
                exchange = await self._prepare(caller, turn, size)
                await self._relay(record, exchange, turn, listener)
        except Unauthenticated:
            self._services.authenticator.forget(caller)
            await self._channel.close(close_codes.NOT_AUTHENTICATED, "unauthenticated")
        except TollkeeperError as error:
            await listener.send(listener.error_frame(error))
        except asyncio.CancelledError:
            await listener.send(listener.error_frame(ShuttingDown()))
            raise
        except Exception:
            log.exception("ws.failed")
            await listener.send(listener.error_frame(TollkeeperError()))
        finally:
            listener.detach()
            self._listener = None
            if self._closes_after_turn:
                await self._channel.close(close_codes.GOING_AWAY, "the server is going away")

    async def _prepare(self, caller: Principal, turn: TurnFrame, size: int) -> NativeExchange:
        if turn.prompt is not None and turn.message is not None:
            raise InvalidRequest("Send only one of prompt, messages and message.")
        turn.message = turn.prompt or turn.message
        parsed = ParsedRequest(turn, await run_by_size(size, chat_messages, turn), size)
        parsed.keyed_request = self._keyed(turn) if turn.retrieve else None
        call, conversation = await make_call(self._services, caller, SURFACE, parsed)
        return NativeExchange(call, streaming=True, conversation=conversation)

    def _keyed(self, turn: TurnFrame) -> KeyedRequest | None:
        if turn.idempotency_key is None:
            return None
        request = msgspec.json.encode(msgspec.structs.replace(turn, id=None))
        owner = attribution_of(self._scope["headers"])
        fingerprint = hashlib.sha256(self._form.path.encode() + owner + b"\0" + request).hexdigest()
        return KeyedRequest(turn.idempotency_key, fingerprint)

    async def _relay(
        self, record: CallRecord, exchange: NativeExchange, turn: TurnFrame, listener: TurnListener
    ) -> None:
        listener.make_event = exchange.delta_event
        idempotent = None
        if (keyed := self._keyed(turn)) is not None:
            idempotent = IdempotentCall(keyed, lambda result: listener.stored_response(exchange, result))
        result = await self._services.gateway.stream(record, exchange.call, listener, idempotent)
        if isinstance(result, Replayed):
            for frame in result.response.body.splitlines():
                await listener.send(with_turn_id(turn.id, frame))
            return
        if not result.outcome.cut_short:
            await exchange.save(result)
        if not result.outcome.cut_short or listener.cancelled:
            await listener.send(listener.final_frame(exchange, result))

    async def _refuse(self, caller: Principal, error: TollkeeperError, turn_id: str | None) -> None:
        """Refuse a turn before it begins."""
        self._services.call_events.refuse(caller, SURFACE, error, join_trace(self._scope["headers"]))
        await self._channel.send(error_frame(error, turn_id))
