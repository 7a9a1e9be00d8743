"""The upstream of the journeys does what a script says: where it did not, other tests would prove nothing."""

import asyncio
import json
import secrets
from typing import Any

import pytest

from journeys.support.raw_http import request
from journeys.upstream.handle import Upstream, scripted
from journeys.upstream.raw_client import CHAT, OLLAMA, WIRES, Asking, Heard, ask, send
from patience import PATIENCE_S

pytestmark = pytest.mark.exhaustive  # the tools of the tests are tested, not the product

SECRET = b"SECRET-OF-THE-UPSTREAM"
SAYING = "Zażółć gęślą jaźń 😀 done"
CHUNKS = ["Zażółć", " gęślą", " jaźń", " 😀", " done"]
STREAMS = 500

every_wire = pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES.keys())


@every_wire
async def test_a_stream_says_word_by_word_what_the_document_says(upstream: Upstream, wire: Asking) -> None:
    whole = await ask(upstream, wire, stream=False, answer=SAYING)
    streamed = await ask(upstream, wire, answer=SAYING)
    assert (whole.status, streamed.status, streamed.whole) == (200, 200, True)
    assert wire.whole(whole.document) == SAYING
    assert _said(wire, streamed) == CHUNKS
    assert _is_last(wire, streamed.events[-1])
    (sent,) = upstream.sent(streamed.marker)
    assert sent == (5, SAYING, 5, True, False)


@every_wire
async def test_an_answer_is_cut_at_the_output_limit_unless_the_script_says_otherwise(
    upstream: Upstream, wire: Asking
) -> None:
    more = wire.limit(3)
    cut = await ask(upstream, wire, stream=False, more=more, answer=SAYING)
    assert wire.whole(cut.document) == "Zażółć gęślą jaźń"
    assert wire.reason(cut.document) in ("length", "max_tokens", "max_output_tokens")
    assert wire.usage(cut.document)[1] == 3
    assert _said(wire, await ask(upstream, wire, more=more, answer=SAYING)) == CHUNKS[:3]
    for script in (
        {"answer": "one two ", "repeat": 4},
        {"over_generate": 8},
        {"obey_limit": False, "chunks": ["a "] * 8},
    ):
        heard = await ask(upstream, wire, more=more, **script)
        assert len("".join(_said(wire, heard)).split()) == 8
        assert upstream.sent(heard.marker)[0].tokens == 8


@every_wire
async def test_usage_is_the_words_or_what_the_script_says(upstream: Upstream, wire: Asking) -> None:
    told = await ask(upstream, wire, stream=False, usage={"input": 30, "output": 7})
    assert wire.usage(told.document) == (30, 7)
    counted = await ask(upstream, wire, stream=False, chunks=["one", " two", " thr", "ee"])
    words = len(scripted(counted.marker, chunks=["one", " two", " thr", "ee"]).split())
    assert wire.usage(counted.document) == (words, 3)
    streamed = await ask(upstream, wire, usage={"output": 7}, more={"stream_options": {"include_usage": True}})
    assert 7 in _numbers(streamed.events)
    silent = await ask(upstream, wire, usage={"output": 7}, without_usage=True)
    assert 7 not in _numbers(silent.events)


async def test_a_plain_completion_reports_9_and_5(upstream: Upstream) -> None:
    assert CHAT.usage((await ask(upstream, CHAT, stream=False)).document) == (9, 5)


@every_wire
async def test_a_split_stream_has_the_same_bytes_in_small_pieces(upstream: Upstream, wire: Asking) -> None:
    split = await ask(upstream, wire, chunks=CHUNKS, split_at=3)
    assert {len(piece) for piece in split.pieces[:-1]} <= {1, 2, 3}
    assert not all(_is_text(piece) for piece in split.pieces), "no character was split"
    assert _said(wire, split) == CHUNKS


@every_wire
async def test_a_coalesced_stream_is_one_piece(upstream: Upstream, wire: Asking) -> None:
    heard = await ask(upstream, wire, chunks=CHUNKS, coalesce=True)
    assert len(heard.pieces) == 1
    assert _said(wire, heard) == CHUNKS
    assert upstream.sent(heard.marker)[0].text == SAYING


@every_wire
async def test_duplicated_frames_come_twice_and_count_twice(upstream: Upstream, wire: Asking) -> None:
    heard = await ask(upstream, wire, chunks=CHUNKS, duplicate_frames=True)
    assert heard.events[::2] == heard.events[1::2]
    (sent,) = upstream.sent(heard.marker)
    assert (sent.chunks, sent.text) == (10, "".join(_said(wire, heard)))


@every_wire
async def test_line_ends_and_comments_change_no_event(upstream: Upstream, wire: Asking) -> None:
    heard = await ask(upstream, wire, chunks=CHUNKS, crlf=True, comments=True)
    assert b"\n" not in heard.body.replace(b"\r\n", b"")
    assert (b": keep-alive" in heard.body) == (wire is not OLLAMA)
    assert _said(wire, heard) == CHUNKS


@every_wire
@pytest.mark.parametrize("stream", [True, False])
async def test_the_line_is_reset_at_the_byte(upstream: Upstream, wire: Asking, stream: bool) -> None:
    good = await ask(upstream, wire, stream=stream, chunks=CHUNKS)
    at = good.body.index("gęślą".encode()) + 2
    cut = await ask(upstream, wire, stream=stream, chunks=CHUNKS, reset_at_byte=at)
    assert (cut.reset, cut.whole, len(cut.body)) == (True, False, at)
    assert cut.body.endswith(b"g" + "ę".encode()[:1])
    (sent,) = upstream.sent(cut.marker)
    assert sent == ((1, "Zażółć", 1, False, False) if stream else (0, "", 0, False, False))


@every_wire
@pytest.mark.parametrize("after", [0, 2, 5])
async def test_a_stream_breaks_after_so_many_chunks(upstream: Upstream, wire: Asking, after: int) -> None:
    for key in ("reset_after", "close_after", "garbage_after", "error_after"):
        script: dict[str, Any] = {"chunks": CHUNKS, key: after}
        heard = await ask(upstream, wire, **script)
        assert _said(wire, heard) == CHUNKS[:after], key
        assert not any(_is_last(wire, event) for event in heard.events)
        assert heard.reset == (key == "reset_after")
        assert heard.whole == (key in ("garbage_after", "error_after"))
        assert (SECRET in heard.body) == heard.whole
        assert upstream.sent(heard.marker) == [(after, "".join(CHUNKS[:after]), after, heard.whole, False)]
        if key == "error_after":
            assert "error" in (heard.events[-1].get("type"), *heard.events[-1])
        if key == "garbage_after":
            assert isinstance(heard.events[-1], str)


@every_wire
async def test_what_says_that_all_is_said_can_be_missing(upstream: Upstream, wire: Asking) -> None:
    heard = await ask(upstream, wire, chunks=CHUNKS, no_done=True)
    good = await ask(upstream, wire, chunks=CHUNKS)
    assert heard.whole
    assert len(heard.events) == len(good.events) - 1
    assert not _is_last(wire, heard.events[-1])


@every_wire
async def test_a_client_who_hangs_up_ends_the_stream_and_what_was_sent_is_known(
    upstream: Upstream, wire: Asking
) -> None:
    """At a gate, in a silence, and before anything was said."""
    silence = {"chunks": CHUNKS, "stall_after": 2}
    for said, script in ((2, {"chunks": CHUNKS, "gate_after": [2, "never"]}), (2, silence), (0, {"delay": 600})):
        marker = secrets.token_hex(8)
        await _hang_up(upstream, wire, scripted(marker, **script), CHUNKS[said - 1] if said else "")
        async with asyncio.timeout(PATIENCE_S):
            while not upstream.sent(marker)[0].cancelled:
                await asyncio.sleep(0.01)
        assert upstream.sent(marker) == [(said, "".join(CHUNKS[:said]), said, False, True)]
    assert upstream.waiting("never") == 0


@every_wire
async def test_an_answer_in_one_piece_is_made_though_the_client_has_gone(own_upstream: Upstream, wire: Asking) -> None:
    await _hang_up(own_upstream, wire, scripted("gone", gate="here"), "", stream=False, gate="here")
    assert own_upstream.served() == []
    async with asyncio.timeout(PATIENCE_S):
        while not own_upstream.sent("gone")[0].cancelled:
            await asyncio.sleep(0.01)
    own_upstream.open("here")
    async with asyncio.timeout(PATIENCE_S):
        while not own_upstream.served():
            await asyncio.sleep(0.01)


@every_wire
async def test_each_answer_is_in_the_log_before_its_first_byte(own_upstream: Upstream, wire: Asking) -> None:
    for number, stream in enumerate((True, False), start=1):
        script = {"usage": {"input": 30, "output": 7}, "gate_after_log": f"logged-{number}"}
        asking = asyncio.create_task(ask(own_upstream, wire, stream=stream, more=wire.limit(50), **script))
        async with asyncio.timeout(PATIENCE_S):
            while len(own_upstream.served()) < number:
                await asyncio.sleep(0.01)
        assert own_upstream.served()[-1] == (50, 30, 7)
        assert not asking.done()
        own_upstream.open(f"logged-{number}")
        assert (await asking).whole


@every_wire
@pytest.mark.parametrize("stream", [True, False])
async def test_a_status_comes_with_its_headers_and_the_error_of_the_wire(
    upstream: Upstream, wire: Asking, stream: bool
) -> None:
    heard = await ask(upstream, wire, stream=stream, status=429, headers={"Retry-After": "7"})
    assert (heard.status, heard.headers["retry-after"]) == (429, "7")
    assert SECRET.decode() in str(heard.document["error"])


@every_wire
async def test_the_first_requests_fail_and_the_next_ones_do_not(upstream: Upstream, wire: Asking) -> None:
    prompt = scripted(secrets.token_hex(8), status=500, fail_times=2, answer=SAYING)
    statuses = [(await send(upstream, wire, prompt, {"stream": False})).status for _ in range(4)]
    assert statuses == [500, 500, 200, 200]


@every_wire
async def test_a_script_may_be_for_one_model(upstream: Upstream, wire: Asking) -> None:
    prompt = scripted(secrets.token_hex(8), by_model={"bad": {"status": 503}}, answer=SAYING)
    bad, good = [await send(upstream, wire, prompt, {"stream": False, "model": model}) for model in ("bad", "good")]
    assert (bad.status, good.status) == (503, 200)
    assert wire.whole(good.document) == SAYING


async def test_the_last_text_of_the_user_is_the_script(upstream: Upstream) -> None:
    """An earlier turn's script is over, and so is a tool call once it was answered."""
    first = scripted("turn", answer="one")
    later = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "and now?"}]
    heard = await send(upstream, CHAT, first, {"messages": [{"role": "user", "content": first}, *later]})
    assert CHAT.whole(heard.document) == "The upstream says hello."
    call = scripted("turn", tool_call={"name": "find"})
    replied = [{"role": "user", "content": call}, {"role": "tool", "tool_call_id": "call_0", "content": "found"}]
    assert CHAT.whole((await send(upstream, CHAT, call, {})).document) is None
    heard = await send(upstream, CHAT, call, {"messages": replied})
    assert CHAT.whole(heard.document) == "The upstream says hello."


@every_wire
async def test_500_streams_run_at_once(upstream: Upstream, wire: Asking) -> None:
    gate = secrets.token_hex(8)
    calls = [asyncio.create_task(ask(upstream, wire, chunks=CHUNKS, gate_after=[2, gate])) for _ in range(STREAMS)]
    async with asyncio.timeout(PATIENCE_S):
        while upstream.waiting(gate) < STREAMS:
            await asyncio.sleep(0.05)
    upstream.open(gate)
    heard = await asyncio.gather(*calls)
    assert all(one.whole and _said(wire, one) == CHUNKS for one in heard)
    assert all(sent.finished and sent.text == SAYING for sent in upstream.sent(gate))


async def _hang_up(
    upstream: Upstream, wire: Asking, prompt: str, after: str, *, stream: bool = True, gate: str = ""
) -> None:
    """Ask, read until a text has come, and go."""
    reader, writer = await upstream.connect()
    writer.write(request("POST", wire.path, json.dumps(wire.body(prompt) | {"stream": stream}).encode()))
    async with asyncio.timeout(PATIENCE_S):
        if after:
            await reader.readuntil(after.encode())
        while not upstream.seen(prompt.partition(" ")[0]) or (gate and not upstream.waiting(gate)):
            await asyncio.sleep(0.01)
    writer.close()


def _said(wire: Asking, heard: Heard) -> list[str]:
    return [text for event in heard.events if (text := wire.said(event))]


def _is_last(wire: Asking, event: Any) -> bool:
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
    """Every number that is called some tokens' or some count."""

    def inside(value: Any) -> set[int]:
        if not isinstance(value, dict):
            return set()
        counts = {n for key, n in value.items() if key.endswith(("_tokens", "_count")) and isinstance(n, int)}
        return counts.union(*map(inside, value.values()))

    return set().union(*map(inside, events))
