"""The fake upstream does what a script says, which the other tests rely on."""

import asyncio
import json
import secrets
from typing import Any

import pytest

from journeys.support.raw_http import request
from journeys.upstream.handle import Upstream, scripted
from journeys.upstream.raw_client import CHAT, OLLAMA, WIRES, ReceivedResponse, WireFields, send_prompt, send_script
from support.deadlines import TEST_DEADLINE_S

pytestmark = pytest.mark.exhaustive  # tests a tool of the tests, not the product

SECRET = b"SECRET-OF-THE-UPSTREAM"
TEXT = "Zażółć gęślą jaźń 😀 done"
CHUNKS = ["Zażółć", " gęślą", " jaźń", " 😀", " done"]
STREAMS = 500

every_wire = pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES.keys())


@every_wire
async def test_a_stream_has_the_text_of_the_document_word_by_word(upstream: Upstream, wire: WireFields) -> None:
    whole = await send_script(upstream, wire, stream=False, answer=TEXT)
    streamed = await send_script(upstream, wire, answer=TEXT)
    assert (whole.status, streamed.status, streamed.whole) == (200, 200, True)
    assert wire.whole_text(whole.document) == TEXT
    assert _texts(wire, streamed) == CHUNKS
    assert _is_last(wire, streamed.events[-1])
    (sent,) = upstream.sent(streamed.marker)
    assert sent == (5, TEXT, 5, True, False)


@every_wire
async def test_an_answer_is_cut_at_the_output_limit_unless_the_script_disables_it(
    upstream: Upstream, wire: WireFields
) -> None:
    more = wire.limit(3)
    cut = await send_script(upstream, wire, stream=False, more=more, answer=TEXT)
    assert wire.whole_text(cut.document) == "Zażółć gęślą jaźń"
    assert wire.reason(cut.document) in ("length", "max_tokens", "max_output_tokens")
    assert wire.usage(cut.document)[1] == 3
    assert _texts(wire, await send_script(upstream, wire, more=more, answer=TEXT)) == CHUNKS[:3]
    for script in (
        {"answer": "one two ", "repeat": 4},
        {"over_generate": 8},
        {"obey_limit": False, "chunks": ["a "] * 8},
    ):
        response = await send_script(upstream, wire, more=more, **script)
        assert len("".join(_texts(wire, response)).split()) == 8
        assert upstream.sent(response.marker)[0].tokens == 8


@every_wire
async def test_usage_is_the_number_of_words_or_what_the_script_sets(upstream: Upstream, wire: WireFields) -> None:
    response = await send_script(upstream, wire, stream=False, usage={"input": 30, "output": 7})
    assert wire.usage(response.document) == (30, 7)
    counted = await send_script(upstream, wire, stream=False, chunks=["one", " two", " thr", "ee"])
    words = len(scripted(counted.marker, chunks=["one", " two", " thr", "ee"]).split())
    assert wire.usage(counted.document) == (words, 3)
    streamed = await send_script(upstream, wire, usage={"output": 7}, more={"stream_options": {"include_usage": True}})
    assert 7 in _numbers(streamed.events)
    unreported = await send_script(upstream, wire, usage={"output": 7}, without_usage=True)
    assert 7 not in _numbers(unreported.events)


async def test_a_plain_completion_reports_9_and_5(upstream: Upstream) -> None:
    assert CHAT.usage((await send_script(upstream, CHAT, stream=False)).document) == (9, 5)


@every_wire
async def test_a_split_stream_has_the_same_bytes_in_small_pieces(upstream: Upstream, wire: WireFields) -> None:
    split = await send_script(upstream, wire, chunks=CHUNKS, split_at=3)
    assert {len(piece) for piece in split.pieces[:-1]} <= {1, 2, 3}
    assert not all(_is_text(piece) for piece in split.pieces), "no character was split"
    assert _texts(wire, split) == CHUNKS


@every_wire
async def test_a_coalesced_stream_is_one_piece(upstream: Upstream, wire: WireFields) -> None:
    response = await send_script(upstream, wire, chunks=CHUNKS, coalesce=True)
    assert len(response.pieces) == 1
    assert _texts(wire, response) == CHUNKS
    assert upstream.sent(response.marker)[0].text == TEXT


@every_wire
async def test_duplicated_frames_come_twice_and_count_twice(upstream: Upstream, wire: WireFields) -> None:
    response = await send_script(upstream, wire, chunks=CHUNKS, duplicate_frames=True)
    assert response.events[::2] == response.events[1::2]
    (sent,) = upstream.sent(response.marker)
    assert (sent.chunks, sent.text) == (10, "".join(_texts(wire, response)))


@every_wire
async def test_line_ends_and_comments_change_no_event(upstream: Upstream, wire: WireFields) -> None:
    response = await send_script(upstream, wire, chunks=CHUNKS, crlf=True, comments=True)
    assert b"\n" not in response.body.replace(b"\r\n", b"")
    assert (b": keep-alive" in response.body) == (wire is not OLLAMA)
    assert _texts(wire, response) == CHUNKS


@every_wire
@pytest.mark.parametrize("stream", [True, False])
async def test_the_line_is_reset_at_the_byte(upstream: Upstream, wire: WireFields, stream: bool) -> None:
    good = await send_script(upstream, wire, stream=stream, chunks=CHUNKS)
    at = good.body.index("gęślą".encode()) + 2
    cut = await send_script(upstream, wire, stream=stream, chunks=CHUNKS, reset_at_byte=at)
    assert (cut.reset, cut.whole, len(cut.body)) == (True, False, at)
    assert cut.body.endswith(b"g" + "ę".encode()[:1])
    (sent,) = upstream.sent(cut.marker)
    assert sent == ((1, "Zażółć", 1, False, False) if stream else (0, "", 0, False, False))


@every_wire
@pytest.mark.parametrize("after", [0, 2, 5])
async def test_a_stream_breaks_after_so_many_chunks(upstream: Upstream, wire: WireFields, after: int) -> None:
    for key in ("reset_after", "close_after", "garbage_after", "error_after"):
        script: dict[str, Any] = {"chunks": CHUNKS, key: after}
        response = await send_script(upstream, wire, **script)
        assert _texts(wire, response) == CHUNKS[:after], key
        assert not any(_is_last(wire, event) for event in response.events)
        assert response.reset == (key == "reset_after")
        assert response.whole == (key in ("garbage_after", "error_after"))
        assert (SECRET in response.body) == response.whole
        assert upstream.sent(response.marker) == [(after, "".join(CHUNKS[:after]), after, response.whole, False)]
        if key == "error_after":
            assert "error" in (response.events[-1].get("type"), *response.events[-1])
        if key == "garbage_after":
            assert isinstance(response.events[-1], str)


@every_wire
async def test_the_last_event_can_be_left_out(upstream: Upstream, wire: WireFields) -> None:
    response = await send_script(upstream, wire, chunks=CHUNKS, no_done=True)
    good = await send_script(upstream, wire, chunks=CHUNKS)
    assert response.whole
    assert len(response.events) == len(good.events) - 1
    assert not _is_last(wire, response.events[-1])


@every_wire
async def test_a_client_that_disconnects_ends_the_stream_and_what_was_sent_is_known(
    upstream: Upstream, wire: WireFields
) -> None:
    """At a gate, while stalled, and before the first word."""
    stalled = {"chunks": CHUNKS, "stall_after": 2}
    for count, script in ((2, {"chunks": CHUNKS, "gate_after": [2, "never"]}), (2, stalled), (0, {"delay": 600})):
        marker = secrets.token_hex(8)
        await _disconnect(upstream, wire, scripted(marker, **script), CHUNKS[count - 1] if count else "")
        async with asyncio.timeout(TEST_DEADLINE_S):
            while not upstream.sent(marker)[0].cancelled:
                await asyncio.sleep(0.01)
        assert upstream.sent(marker) == [(count, "".join(CHUNKS[:count]), count, False, True)]
    assert upstream.waiting("never") == 0


@every_wire
async def test_a_whole_answer_is_logged_although_the_client_has_disconnected(
    own_upstream: Upstream, wire: WireFields
) -> None:
    await _disconnect(own_upstream, wire, scripted("gone", gate="here"), "", stream=False, gate="here")
    assert own_upstream.served() == []
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not own_upstream.sent("gone")[0].cancelled:
            await asyncio.sleep(0.01)
    own_upstream.open("here")
    async with asyncio.timeout(TEST_DEADLINE_S):
        while not own_upstream.served():
            await asyncio.sleep(0.01)


@every_wire
async def test_each_answer_is_in_the_log_before_its_first_byte(own_upstream: Upstream, wire: WireFields) -> None:
    for number, stream in enumerate((True, False), start=1):
        script = {"usage": {"input": 30, "output": 7}, "gate_after_log": f"logged-{number}"}
        pending = asyncio.create_task(send_script(own_upstream, wire, stream=stream, more=wire.limit(50), **script))
        async with asyncio.timeout(TEST_DEADLINE_S):
            while len(own_upstream.served()) < number:
                await asyncio.sleep(0.01)
        assert own_upstream.served()[-1] == (50, 30, 7)
        assert not pending.done()
        own_upstream.open(f"logged-{number}")
        assert (await pending).whole


@every_wire
@pytest.mark.parametrize("stream", [True, False])
async def test_a_status_has_its_headers_and_the_error_body_of_the_wire(
    upstream: Upstream, wire: WireFields, stream: bool
) -> None:
    response = await send_script(upstream, wire, stream=stream, status=429, headers={"Retry-After": "7"})
    assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert SECRET.decode() in str(response.document["error"])


@every_wire
async def test_the_first_requests_fail_and_the_next_ones_do_not(upstream: Upstream, wire: WireFields) -> None:
    prompt = scripted(secrets.token_hex(8), status=500, fail_times=2, answer=TEXT)
    statuses = [(await send_prompt(upstream, wire, prompt, {"stream": False})).status for _ in range(4)]
    assert statuses == [500, 500, 200, 200]


@every_wire
async def test_a_script_may_apply_to_one_model(upstream: Upstream, wire: WireFields) -> None:
    prompt = scripted(secrets.token_hex(8), by_model={"bad": {"status": 503}}, answer=TEXT)
    bad, good = [
        await send_prompt(upstream, wire, prompt, {"stream": False, "model": model}) for model in ("bad", "good")
    ]
    assert (bad.status, good.status) == (503, 200)
    assert wire.whole_text(good.document) == TEXT


async def test_the_script_is_in_the_last_text_of_the_user(upstream: Upstream) -> None:
    """The script of an earlier message has no effect, nor has a tool call that has a result."""
    first = scripted("turn", answer="one")
    later = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "and now?"}]
    response = await send_prompt(upstream, CHAT, first, {"messages": [{"role": "user", "content": first}, *later]})
    assert CHAT.whole_text(response.document) == "The upstream says hello."
    call = scripted("turn", tool_call={"name": "find"})
    replied = [{"role": "user", "content": call}, {"role": "tool", "tool_call_id": "call_0", "content": "found"}]
    assert CHAT.whole_text((await send_prompt(upstream, CHAT, call, {})).document) is None
    response = await send_prompt(upstream, CHAT, call, {"messages": replied})
    assert CHAT.whole_text(response.document) == "The upstream says hello."


@every_wire
async def test_500_streams_run_at_once(upstream: Upstream, wire: WireFields) -> None:
    gate = secrets.token_hex(8)
    calls = [
        asyncio.create_task(send_script(upstream, wire, chunks=CHUNKS, gate_after=[2, gate])) for _ in range(STREAMS)
    ]
    async with asyncio.timeout(TEST_DEADLINE_S):
        while upstream.waiting(gate) < STREAMS:
            await asyncio.sleep(0.05)
    upstream.open(gate)
    response = await asyncio.gather(*calls)
    assert all(one.whole and _texts(wire, one) == CHUNKS for one in response)
    assert all(sent.finished and sent.text == TEXT for sent in upstream.sent(gate))


async def _disconnect(
    upstream: Upstream, wire: WireFields, prompt: str, after: str, *, stream: bool = True, gate: str = ""
) -> None:
    """Send a request, read until `after` has arrived, and disconnect."""
    reader, writer = await upstream.connect()
    writer.write(request("POST", wire.path, json.dumps(wire.body(prompt) | {"stream": stream}).encode()))
    async with asyncio.timeout(TEST_DEADLINE_S):
        if after:
            await reader.readuntil(after.encode())
        while not upstream.requests(prompt.partition(" ")[0]) or (gate and not upstream.waiting(gate)):
            await asyncio.sleep(0.01)
    writer.close()


def _texts(wire: WireFields, response: ReceivedResponse) -> list[str]:
    return [text for event in response.events if (text := wire.event_text(event))]


def _is_last(wire: WireFields, event: Any) -> bool:
    if not isinstance(event, dict):
        return bool(event == wire.last)
    return wire.last in (event.get("type"), event.get("done"))


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _numbers(events: list[Any]) -> set[int]:
    """All numbers in fields named `*_tokens` or `*_count`."""

    def inside(value: Any) -> set[int]:
        if not isinstance(value, dict):
            return set()
        counts = {n for key, n in value.items() if key.endswith(("_tokens", "_count")) and isinstance(n, int)}
        return counts.union(*map(inside, value.values()))

    return set().union(*map(inside, events))
