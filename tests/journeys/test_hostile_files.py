"""Files that are hostile or wrong: each is refused with a reason, and no call of it is made."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from journeys.support import batches
from journeys.support.batches import chat_line, jsonl, request
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.prove_only_on_postgres

GOOD = chat_line("a", "hello")


def problem_of(**changes: Any) -> bytes:
    return jsonl([GOOD | changes])


FILES: dict[str, tuple[bytes, list[tuple[str, int | None]]]] = {
    "empty": (b"", [("empty_file", None)]),
    "blank": (b"\n \r\n\n", [("empty_file", None)]),
    "no JSON": (b"hello\n", [("invalid_json_line", 1)]),
    "not closed": (jsonl([GOOD]).rstrip(b"}\n"), [("invalid_json_line", 1)]),
    "a NUL": (jsonl([GOOD]).replace(b"hello", b"he\0llo"), [("invalid_json_line", 1)]),
    "no UTF-8": (jsonl([GOOD | {"custom_id": "X"}]).replace(b'"X"', b'"\xff"'), [("invalid_json_line", 1)]),
    "nested": (b"[" * 100_000, [("invalid_line", 1)]),
    "a list": (b"[]\n", [("invalid_line", 1)]),
    "an unknown field": (problem_of(more=1), [("invalid_line", 1)]),
    "a body that is no object": (problem_of(body=[1]), [("invalid_line", 1)]),
    "another url": (jsonl([GOOD, chat_line("b", "x") | {"url": "/v1/embeddings"}]), [("invalid_url", 2)]),
    "another method": (problem_of(method="GET"), [("invalid_method", 1)]),
    "no custom_id": (problem_of(custom_id=""), [("invalid_custom_id", 1)]),
    "a NUL in a custom_id": (problem_of(custom_id="a\0"), [("invalid_custom_id", 1)]),
    "a custom_id twice": (jsonl([GOOD, chat_line("b", "x"), GOOD]), [("duplicate_custom_id", 3)]),
    "a giant line": (b'{"custom_id": "' + b"x" * (21 * 1024 * 1024), [("line_too_long", 1)]),
    "50,001 lines": (b"".join(b'{"custom_id":"%d","method":"POST","url":"/v1/chat/completions","body":{}}\n' % n
                              for n in range(50_001)), [("too_many_requests", None)]),
}  # fmt: skip


async def test_a_file_with_a_wrong_line_is_refused_as_a_whole(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        for name, (content, problems) in FILES.items():
            batch = await batches.run(caller, content)
            assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None), name
            found = [(one["code"], one["line"]) for one in batch["errors"]["data"]]
            assert (found[:1] if name == "nested" else found) == problems, name
        many = await batches.run(caller, b"x\n" * 1_000)
        assert len(many["errors"]["data"]) == 100
        assert await caller.charges() == []


async def test_a_byte_order_mark_crlf_and_a_last_line_without_a_break_are_accepted(server: Server) -> None:
    async with new_user(server) as caller:
        lines = [chat_line(f"{n}", caller.marker) for n in range(3)]
        content = b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(line).encode() for line in lines)
        batch = await batches.run(caller, content)
        assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
        assert (await request(caller, "GET", f"/v1/files/{batch['input_file_id']}/content")).body == content


async def test_forms_that_are_wrong_store_nothing(server: Server) -> None:
    async with new_user(server) as caller:
        for reply in (
            await batches.upload(caller, b"{}", purpose="fine-tune"),
            await batches.upload(caller, b"{}", more="x"),
            await batches.upload(caller, b"{}", purpose="x" * 2_000),
            await batches.upload(caller, b"{}", **{"expires_after[anchor]": "created_at"}),
            await _post(caller, b"--x\r\nbroken", "multipart/form-data; boundary=x"),
            await _post(caller, b"", "multipart/form-data; boundary=x"),
        ):
            assert (reply.status, reply.body["error"]["type"]) == (400, "invalid_request_error"), reply
        assert (await _post(caller, b"{}", "application/json")).status == 415
        async with caller.http.post("/v1/files", data=b"x") as response:
            assert response.status == 401
        assert (await request(caller, "GET", "/v1/files")).body["data"] == []


async def test_a_tenant_has_so_many_bytes_and_no_more(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    limits = {"TOLLKEEPER_MAX_FILE_BYTES": "2000000", "TOLLKEEPER_MAX_TENANT_FILE_BYTES": "3000000"}
    server = make_server(database_url, OPENAI_BASE_URL=upstream.base_url, **limits).start()
    content = b"x" * 1_000_000
    async with new_user(server) as caller, new_user(server, tenant_id=caller.principal.tenant_id) as colleague:
        assert (await batches.upload(caller, b"x" * 2_100_000)).status == 413
        replies = await asyncio.gather(*(batches.upload(one, content) for one in [caller, colleague] * 4))
        kept = [reply.body["id"] for reply in replies if reply.status == 200]
        assert sorted({reply.status for reply in replies}) == [200, 403]
        assert 1 <= len(kept) <= 2, "the forms count, too, while they are received"
        assert {reply.headers.get("X-Error-Code") for reply in replies if reply.status == 403} == {"storage_full"}
        stored = [one for user in (caller, colleague) for one in (await request(user, "GET", "/v1/files")).body["data"]]
        assert {one["id"] for one in stored} == set(kept)
        for user in (caller, colleague):
            for one in (await request(user, "GET", "/v1/files")).body["data"]:
                assert (await request(user, "DELETE", f"/v1/files/{one['id']}")).status == 200
        async with asyncio.timeout(TEST_DEADLINE_S):
            assert (await batches.upload(caller, content)).status == 200
    server.stop()


async def _post(caller: ApiUser, body: bytes, media_type: str) -> Any:
    headers = caller.auth_headers | {"Content-Type": media_type}
    async with caller.http.post("/v1/files", data=body, headers=headers) as response:
        return await batches.reply_of(response)
