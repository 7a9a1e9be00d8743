"""The entrance: who gets through a door with what, and how what comes of it is said. With a real ledger behind."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from house import USAGE, House, ending, open_house, text
from patience import PATIENCE_S
from tollkeeper import errors
from tollkeeper.api import middleware
from tollkeeper.api.body_budget import BodyBudget
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS
from tollkeeper.api.dependencies import Services
from tollkeeper.api.metered import MeteredRouter
from tollkeeper.api.native.query import QUERY, STREAM
from tollkeeper.chat import Completion, TextDelta
from tollkeeper.clock import SystemClock
from tollkeeper.dialects.sse import DONE, Splitter
from tollkeeper.gateway import attempts
from tollkeeper.principal import Access
from tollkeeper.providers.base import StreamChunk
from tollkeeper.quota.rules.idempotency_keys import MAX_STORED_BYTES
from tollkeeper.throttle import Throttle

TOKEN = (b"authorization", b"Bearer good")
PROMPT = b'{"prompt": "hi"}'


@dataclass
class Call:
    """One request and what was sent in answer. `leave` hangs up.

    `parts` come before the body; where that is None, nothing more comes.
    """

    path: str
    body: bytes | None = PROMPT
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [TOKEN])
    method: str = "POST"
    parts: list[bytes] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    read: bool = False

    async def receive(self) -> Message:
        if self.parts:
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": True}
        if not self.read and self.body is not None:
            self.read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return cast(int, self.sent[0]["status"])

    @property
    def answer(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def said(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def document(self) -> Any:
        return orjson.loads(self.said)

    @property
    def events(self) -> list[Any]:
        """Each event, as its document; the last word as it is."""
        found = Splitter().feed(self.said)
        return [one.data.decode() if one.data == b"[DONE]" else orjson.loads(one.data) for one in found]

    @property
    def over(self) -> bool:
        return not self.sent[-1].get("more_body", False)


@dataclass
class Porch:
    """The entrance of a house."""

    house: House
    services: SimpleNamespace
    entrance: MeteredRouter

    async def __call__(self, path: str, **call: Any) -> Call:
        return await self.take(Call(path, **call))

    async def take(self, call: Call) -> Call:
        scope = {"type": "http", "path": call.path, "method": call.method, "headers": call.headers}
        await self.entrance(scope, call.receive, call.send)
        return call


@pytest.fixture
async def porch(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Porch]:
    monkeypatch.setattr(attempts, "RETRY_PAUSE_S", 0.001)
    async with open_house(sqlite_url) as house:

        async def verify(token: str, access: Access) -> object:
            if token != "good" or access is not Access.AI:
                raise errors.Unauthenticated
            return house.caller

        throttle = Throttle(login="off", ai="20/minute", clock=SystemClock())
        authenticator = SimpleNamespace(verify=verify, forget=lambda _: None)
        services = SimpleNamespace(gateway=house.gateway, authenticator=authenticator, throttle=throttle)

        async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 418, "headers": []})

        doors = (QUERY, STREAM, CHAT_COMPLETIONS)
        yield Porch(house, services, MeteredRouter(elsewhere, doors, lambda: cast(Services, services)))


def with_key(key: bytes = b"key", *more: bytes) -> list[tuple[bytes, bytes]]:
    return [TOKEN, *((b"idempotency-key", one) for one in (key, *more))]


async def test_what_is_no_door_passes(porch: Porch) -> None:
    assert (await porch("/elsewhere")).status == 418


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ({"method": "GET"}, 405, "method_not_allowed"),
        ({"headers": []}, 401, "unauthenticated"),
        ({"headers": [(b"authorization", b"Bearer bad")]}, 401, "unauthenticated"),
        ({"headers": [TOKEN, (b"x-api-key", b"good")]}, 401, "unauthenticated"),
        ({"headers": [], "body": b"x" * 2**21}, 401, "unauthenticated"),
        ({"body": b"x" * 2**21}, 413, "body_too_large"),
        ({"body": b"{"}, 400, "invalid_json"),
        ({"body": b"{}"}, 422, "invalid_request"),
        ({"headers": with_key(b"")}, 400, "invalid_json"),
        ({"headers": with_key(b"a b")}, 400, "invalid_json"),
        ({"headers": with_key(b"a" * 256)}, 400, "invalid_json"),
        ({"headers": with_key(b"a", b"b")}, 400, "invalid_json"),
    ],
)
@pytest.mark.parametrize("path", [QUERY.path, STREAM.path])
async def test_whoever_does_not_get_through_is_told_why_and_nobody_is_asked(
    porch: Porch, path: str, call: dict[str, Any], status: int, code: str
) -> None:
    refused = await porch(path, **call)
    assert (refused.status, refused.document["code"], refused.over) == (status, code, True)
    assert (porch.house.provider.asked, await porch.house.charges()) == ([], [])


async def test_whoever_comes_too_often_is_told_when_to_come_back(porch: Porch) -> None:
    for _ in range(20):
        assert (await porch(QUERY.path)).status == 200
    for endpoint in (QUERY.path, STREAM.path):
        refused = await porch(endpoint)
        assert (refused.status, refused.document["code"]) == (429, "rate_limited")
        assert 1 <= int(refused.answer["retry-after"]) <= 60
    assert len(porch.house.provider.asked) == len(await porch.house.charges()) == 20


async def test_whoever_comes_too_often_is_told_before_anything_is_read(porch: Porch) -> None:
    porch.services.throttle = Throttle(login="off", ai="1/minute", clock=SystemClock())
    await porch(QUERY.path)
    call = await porch(QUERY.path, body=b"{")
    assert (call.status, call.document["code"], call.read) == (429, "rate_limited", False)


async def test_a_body_that_does_not_come_in_time_is_waited_for_no_longer(
    porch: Porch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.01)
    for endpoint, code in ((QUERY.path, "code"), (CHAT_COMPLETIONS.path, "error")):
        call = await porch(endpoint, parts=[PROMPT], body=None)
        assert (call.status, call.answer["connection"], code in call.document) == (408, "close", True)
    assert (porch.house.provider.asked, await porch.house.charges()) == ([], [])


async def test_whoever_hangs_up_within_a_body_has_asked_nothing_even_if_it_reads_as_a_whole(porch: Porch) -> None:
    call = Call(QUERY.path, parts=[PROMPT], body=None)
    call.leave.set()
    with pytest.raises(ClientDisconnect):
        await porch.take(call)
    assert (call.sent, porch.house.provider.asked, await porch.house.charges()) == ([], [], [])


async def test_a_body_may_come_in_parts(porch: Porch) -> None:
    assert (await porch(QUERY.path, parts=[b"", PROMPT[:3]], body=PROMPT[3:])).status == 200
    refused = await porch(QUERY.path, parts=[b"x" * 2**20], body=b"x")
    assert (refused.status, refused.document["code"]) == (413, "body_too_large")


async def test_what_a_call_has_sent_is_held_until_it_is_over(porch: Porch, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(PROMPT)
    monkeypatch.setattr(
        porch.entrance, "_body_budget", BodyBudget(max_per_user=2 * size - 1, max_in_total=3 * size - 1)
    )
    asked = asyncio.Event()
    porch.house.provider.streams = [[text("He"), asked.set, asyncio.Event()]]
    first = Call(STREAM.path)
    running = asyncio.create_task(porch.take(first))
    async with asyncio.timeout(PATIENCE_S):
        await asked.wait()
    refused = await porch(QUERY.path)
    assert (refused.status, refused.document["code"], refused.answer["retry-after"]) == (429, "rate_limited", "1")
    assert len(porch.house.provider.asked) == 1
    first.leave.set()
    await running
    assert [(await porch(QUERY.path)).status for _ in range(3)] == [200] * 3
    assert (await porch(QUERY.path, body=b"{")).status == 400
    assert (await porch(QUERY.path)).status == 200


async def test_a_key_can_come_where_anthropics_clients_put_it(porch: Porch) -> None:
    assert (await porch(QUERY.path, headers=[(b"x-api-key", b"good")])).status == 200


async def test_an_answer_comes_with_its_charge(porch: Porch) -> None:
    call = await porch(QUERY.path)
    charge = await porch.house.charge()
    assert (call.status, call.document["answer"], call.document["cost"]) == (200, "yes", 50)
    assert call.document["query_id"] == call.answer["x-charge-id"] == charge.id
    assert call.answer["x-quota-remaining"] == str(10_000 - 50)
    assert call.answer["content-length"] == str(len(call.said))


async def test_a_failure_comes_with_its_charge_in_the_manner_of_the_door(porch: Porch) -> None:
    porch.house.provider.answers = [errors.ProviderRejected()]
    call = await porch(CHAT_COMPLETIONS.path, body=b'{"messages": [{"role": "user", "content": "hi"}]}')
    assert (call.status, call.document["error"]["type"]) == (400, "invalid_request_error")
    assert call.answer["x-error-code"] == "provider_rejected"
    assert call.answer["x-charge-id"] == (await porch.house.charge()).id


@pytest.mark.parametrize("path", [QUERY.path, STREAM.path])
async def test_what_comes_again_with_its_key_is_said_again_and_free(porch: Porch, path: str) -> None:
    first, again = [await porch(path, headers=with_key()) for _ in range(2)]
    assert first.said == again.said
    assert again.answer["idempotent-replayed"] == "true"
    assert again.answer["content-type"] == first.answer["content-type"]
    assert "idempotent-replayed" not in first.answer
    assert sorted(one.cost_tokens for one in await porch.house.charges()) == [0, 50]
    assert len(porch.house.provider.asked) == 1


async def test_a_key_is_for_one_door_and_one_body(porch: Porch) -> None:
    await porch(QUERY.path, headers=with_key())
    for call in ({"path": STREAM.path}, {"path": QUERY.path, "body": b'{"prompt": "ho"}'}):
        refused = await porch(headers=with_key(), **call)
        assert (refused.status, refused.document["code"]) == (422, "idempotency_key_reused")


async def test_a_stream_too_long_to_be_kept_is_said_whole_and_cannot_be_said_again(porch: Porch) -> None:
    porch.house.provider.streams = [[StreamChunk(b"x" * MAX_STORED_BYTES, (TextDelta("x"),)), text("y"), *ending()]]
    body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
    first, again = [await porch(CHAT_COMPLETIONS.path, body=body, headers=with_key()) for _ in range(2)]
    assert first.said == b"x" * MAX_STORED_BYTES + b"y<finish>" + DONE
    assert (again.status, again.answer["x-error-code"]) == (409, "previous_attempt_interrupted")
    assert len(porch.house.provider.asked) == 1


async def test_a_stream_is_settled_before_its_final_event(porch: Porch) -> None:
    house, heard_before = porch.house, list[str]()
    call = Call(STREAM.path)
    house.provider.streams = [[text("He"), text("llo"), lambda: heard_before.append(call.said.decode()), *ending()]]
    await porch.take(call)
    *pieces, final, done = call.events
    assert [(one["content"], one["sequence"]) for one in pieces] == [("He", 0), ("llo", 1)]
    assert not any(one["is_final"] for one in pieces)
    assert (final["is_final"], final["cost"], final["usage"]["total_tokens"], done) == (True, 50, 50, "[DONE]")
    assert final["quota"]["used"] == 50
    assert (final["query_id"], call.over) == ((await house.charge()).id, True)
    assert (call.answer["x-charge-id"], call.answer["content-type"]) == (final["query_id"], "text/event-stream")
    assert heard_before[0].count("data:") == 2, "each piece is sent as soon as it comes"


async def test_a_stream_that_fails_before_it_begins_is_an_error_like_another(porch: Porch) -> None:
    porch.house.provider.streams = [[errors.ProviderTimeout()]]
    call = await porch(STREAM.path)
    assert (call.status, call.document["code"]) == (504, "provider_timeout")
    assert call.answer["x-charge-id"] == (await porch.house.charge()).id


async def test_a_stream_that_breaks_says_so_and_has_no_last_word(porch: Porch) -> None:
    porch.house.provider.streams = [[text("He"), errors.ProviderFailed()]]
    call = await porch(STREAM.path)
    assert call.status == 200
    assert [one.get("code") for one in call.events] == [None, "provider_error"]
    assert (call.over, DONE in call.said) == (True, False)


async def test_a_mistake_of_ours_is_told_as_one_and_not_as_the_end_of_the_server(porch: Porch) -> None:
    porch.house.provider.streams = [[text("He"), ZeroDivisionError("SECRET")]]
    call = Call(STREAM.path)
    with pytest.raises(ZeroDivisionError):
        await porch.take(call)
    assert [one.get("code") for one in call.events] == [None, "internal_error"]
    assert (call.over, b"SECRET" in call.said) == (True, False)


async def test_a_stream_that_the_end_of_the_server_cuts_says_so(porch: Porch) -> None:
    said = asyncio.Event()
    porch.house.provider.streams = [[text("He"), said.set, asyncio.Event()]]
    call = Call(STREAM.path)
    task = asyncio.create_task(porch.take(call))
    await said.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [one.get("code") for one in call.events] == [None, "shutting_down"]
    assert (call.over, (await porch.house.charge()).basis) == (True, "counted")


async def test_to_whoever_has_gone_nothing_more_is_said(porch: Porch) -> None:
    call = Call(STREAM.path)
    porch.house.provider.streams = [[text("He"), call.leave.set, asyncio.Event()]]
    await porch.take(call)
    assert [one["content"] for one in call.events] == ["He"]
    assert not call.over
    charge = await porch.house.charge()
    assert (charge.basis, charge.output_tokens, porch.house.provider.hung_up) == ("counted", 2, 1)


async def test_a_stream_of_nothing_is_a_whole_one(porch: Porch) -> None:
    porch.house.provider.streams = [ending()]
    call = await porch(STREAM.path)
    assert [one if isinstance(one, str) else one["is_final"] for one in call.events] == [True, "[DONE]"]


async def test_what_the_provider_said_on_the_same_wire_goes_out_as_it_came(porch: Porch) -> None:
    body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
    porch.house.provider.streams = [[text("<one>"), text("<two>"), *ending()]]
    call = await porch(CHAT_COMPLETIONS.path, body=body)
    assert call.said == b"<one><two><finish>" + DONE
    porch.house.provider.answers = [Completion("yes", "stop", USAGE, raw=b"<raw>")]
    assert (await porch(CHAT_COMPLETIONS.path, body=body.replace(b"true", b"false"))).said == b"<raw>"
