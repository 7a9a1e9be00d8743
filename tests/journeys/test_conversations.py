"""Conversations through the running server: one on every native door, and what its owner sees of it."""

import json
from collections.abc import Callable
from typing import Any

from journeys.support.server import Server
from journeys.support.users import Person, person
from journeys.upstream.handle import Upstream, scripted
from patience import PATIENCE_S


async def post(caller: Person, path: str, **document: Any) -> bytes:
    """The body of a good answer."""
    async with caller.http.post(path, json=document, headers=caller.bearer) as response:
        body = await response.read()
        assert response.status == 200, body
        return body


async def delete(caller: Person, path: str, **headers: str) -> tuple[int, bytes]:
    async with caller.http.delete(path, headers=caller.bearer | headers) as response:
        return response.status, await response.read()


def events(body: bytes) -> list[dict[str, Any]]:
    """What a stream said, without its end mark."""
    lines = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def last_sent(upstream: Upstream, marker: str) -> list[tuple[str, str]]:
    """The messages of the last request, with the scripts taken out."""
    messages = upstream.seen(marker)[-1]["body"]["messages"]
    return [(message["role"], message["content"].partition(" <<")[0]) for message in messages]


async def test_every_native_door_goes_on_with_the_same_conversation(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        said, expected = caller.marker, [("system", "Be brief.")]

        reply = await caller.ask(scripted(f"{said} 1", answer="One."), session_id="s", system_prompt="Be brief.")
        assert reply.body["session_id"] == "s"
        expected += [("user", f"{said} 1")]
        assert last_sent(upstream, said) == expected

        streamed = events(await post(caller, "/ai/stream", prompt=scripted(f"{said} 2", answer="Two."), session_id="s"))
        assert streamed[-1]["session_id"] == "s"
        expected += [("assistant", "One."), ("user", f"{said} 2")]
        assert last_sent(upstream, said) == expected

        await post(caller, "/ai/chat", message=scripted(f"{said} 3", answer="Three."), session_id="s")
        expected += [("assistant", "Two."), ("user", f"{said} 3")]
        assert last_sent(upstream, said) == expected

        messages = [{"role": "user", "content": scripted(f"{said} 4", answer="Four.")}]
        events(await post(caller, "/ai/chat", messages=messages, session_id="s", stream=True))
        expected += [("assistant", "Three."), ("user", f"{said} 4")]
        assert last_sent(upstream, said) == expected

        async with caller.http.ws_connect("/ai/ws") as socket:
            await socket.send_json({"type": "auth", "token": caller.token})
            await socket.send_json(
                {"type": "query", "prompt": scripted(f"{said} 5", answer="Five."), "session_id": "s"}
            )
            while (await socket.receive_json(timeout=PATIENCE_S))["type"] != "final":
                pass
        expected += [("assistant", "Four."), ("user", f"{said} 5")]
        assert last_sent(upstream, said) == expected

        read = (await caller.get("/ai/sessions/s")).body
        assert read["system_prompt"] == "Be brief."
        shown = [(message["role"], message["content"].partition(" <<")[0]) for message in read["messages"]]
        assert shown == [*expected[1:], ("assistant", "Five.")]


async def test_a_call_without_a_session_is_told_nothing_and_remembered_nowhere(
    server: Server, upstream: Upstream
) -> None:
    async with person(server) as caller:
        await caller.ask(f"{caller.marker} 1", session_id="s")
        reply = await caller.ask(f"{caller.marker} 2")
        assert reply.body["session_id"] is None
        assert last_sent(upstream, caller.marker) == [("user", f"{caller.marker} 2")]
        assert (await caller.get("/ai/sessions/s")).body["turns"] == 2


async def test_a_call_that_fails_or_is_refused_leaves_no_trace(server: Server) -> None:
    async with person(server, limit=500) as caller:
        assert (await caller.ask(scripted(caller.marker, status=500), session_id="s")).status == 502
        assert (await caller.ask(caller.marker, session_id="s", max_tokens=5_000)).code == "quota_exceeded"
        assert (await caller.get("/ai/sessions")).body == {"data": [], "next_cursor": None}
        assert (await caller.get("/ai/sessions/s")).code == "not_found"


async def test_what_is_remembered_is_paid_for_and_bounded(server: Server, upstream: Upstream) -> None:
    """The oldest exchanges fall out, the system prompt stays, and each call holds for all that is sent."""
    async with person(server) as caller:
        most = 0
        for number in range(12):
            word = f"{caller.marker} {number} " + "long " * 500
            more = {"system_prompt": "Be brief."} if number == 0 else {}
            reply = await caller.ask(scripted(word, answer=f"Answer {number}."), session_id="s", **more)
            assert reply.status == 200, reply
            sent = last_sent(upstream, caller.marker)
            assert sent[0] == ("system", "Be brief.")
            assert sent[-1] == ("user", word)
            assert [role for role, _ in sent[1:]] == ["user", "assistant"] * (len(sent) // 2 - 1) + ["user"]
            most = max(most, len(sent))
        (shown,) = (await caller.get("/ai/sessions")).body["data"]
        assert len(sent) == most < 25
        assert shown["turns"] < 24
        charge = (await caller.get(f"/me/charges/{reply.body['query_id']}")).body
        assert charge["held"] - charge["granted_output"] > 0
        assert charge["held"] >= charge["input_tokens"] + charge["granted_output"]


async def test_the_list_comes_in_pages_with_sizes_and_times(server: Server) -> None:
    async with person(server) as caller:
        for number in range(5):
            await caller.ask(caller.marker, session_id=f"s-{number}")
        await caller.ask(caller.marker, session_id="s-0")
        found: list[dict[str, Any]] = []
        path = "/ai/sessions?limit=2"
        while path:
            page = (await caller.get(path)).body
            found += page["data"]
            path = f"/ai/sessions?limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        assert [one["id"] for one in found] == [f"s-{number}" for number in (4, 3, 2, 1, 0)]
        assert [one["turns"] for one in found] == [2, 2, 2, 2, 4]
        assert found[-1]["tokens"] == 2 * found[0]["tokens"] > 0
        assert found[-1]["created_at"] < found[0]["created_at"] < found[-1]["updated_at"]
        for query in ("limit=0", "limit=101", "cursor=x", "cursor=1", "cursor=1.%00", f"cursor={'9' * 30}.a"):
            assert (await caller.get(f"/ai/sessions?{query}")).status == 422, query


async def test_a_deleted_conversation_is_gone_and_its_name_free(server: Server, upstream: Upstream) -> None:
    async with person(server) as caller:
        await caller.ask(f"{caller.marker} 1", session_id="s", system_prompt="Be brief.")
        assert await delete(caller, "/ai/sessions/s") == (204, b"")
        assert (await caller.get("/ai/sessions/s")).code == "not_found"
        assert (await delete(caller, "/ai/sessions/s"))[0] == 404
        await caller.ask(f"{caller.marker} 2", session_id="s")
        assert last_sent(upstream, caller.marker) == [("user", f"{caller.marker} 2")]


async def test_another_users_conversation_looks_like_one_that_does_not_exist(
    server: Server, upstream: Upstream
) -> None:
    async with (
        person(server) as owner,
        person(server, tenant_id=owner.principal.tenant_id) as colleague,
        person(server) as stranger,
    ):
        await owner.ask(owner.marker, session_id="theirs", system_prompt="Confidential.")
        same = {"X-Correlation-ID": "the-same"}
        bodies = set()
        for other in (colleague, stranger):
            for name in ("theirs", "absent", "a%20b", "x" * 101, "%00", "'%20OR%201=1"):
                path = f"/ai/sessions/{name}"
                status, body = await delete(other, path, **same)
                assert status == 404, path
                bodies.add(body)
                async with other.http.get(path, headers=other.bearer | same) as response:
                    assert response.status == 404, path
                    bodies.add(await response.read())
            assert (await other.get("/ai/sessions")).body["data"] == []
            await other.ask(other.marker, session_id="theirs")
            assert last_sent(upstream, other.marker) == [("user", other.marker)]
        assert len(bodies) == 1
        assert (await owner.get("/ai/sessions/theirs")).body["messages"][0]["content"] == owner.marker


async def test_the_routes_want_a_token(server: Server) -> None:
    async with person(server) as caller:
        for method, path in (("GET", "/ai/sessions"), ("GET", "/ai/sessions/s"), ("DELETE", "/ai/sessions/s")):
            async with caller.http.request(method, path) as response:
                assert response.status == 401, path


async def test_two_servers_go_on_with_one_conversation(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream
) -> None:
    """And it survives the process that began it."""
    first = make_server(sqlite_url, "first", OPENAI_BASE_URL=upstream.base_url).start()
    second = make_server(sqlite_url, "second", OPENAI_BASE_URL=upstream.base_url).start()
    async with person(first) as caller, caller.at(second) as elsewhere:
        await caller.ask(scripted(f"{caller.marker} 1", answer="One."), session_id="s")
        first.stop()
        await elsewhere.ask(f"{caller.marker} 2", session_id="s")
        assert last_sent(upstream, caller.marker) == [
            ("user", f"{caller.marker} 1"),
            ("assistant", "One."),
            ("user", f"{caller.marker} 2"),
        ]
    second.stop()


async def test_nothing_that_is_remembered_is_logged(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream
) -> None:
    server = make_server(sqlite_url, OPENAI_BASE_URL=upstream.base_url, LOG_LEVEL="debug").start()
    async with person(server) as caller:
        await caller.ask(caller.marker, session_id="s", system_prompt="said-in-confidence")
        await caller.ask(caller.marker, session_id="s")
        assert "said-in-confidence" in json.dumps((await caller.get("/ai/sessions/s")).body)
    server.stop()
    for secret in ("said-in-confidence", caller.marker, "The upstream says hello."):
        assert secret not in server.program.output
