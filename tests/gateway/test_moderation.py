"""Moderation on the path of a call: what is held back and sent, what is charged, and what a failure does to it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.gateway import (
    USAGE,
    GatewayUnderTest,
    RecordingListener,
    assert_charged,
    final_chunks,
    open_gateway,
    text_chunk,
)
from tollkeeper.chat import (
    ChatRequest,
    Completion,
    Message,
    Reasoning,
    ReasoningDelta,
    ReasoningEnd,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)
from tollkeeper.errors import ContentBlocked, InvalidRequest, ProviderInterrupted
from tollkeeper.gateway import moderated_text
from tollkeeper.gateway.call_events import ModerationEvent
from tollkeeper.gateway.moderated_text import HeldText
from tollkeeper.gateway.results import CallFailed
from tollkeeper.moderation import patterns
from tollkeeper.moderation.documents import PolicyDocument, write_document
from tollkeeper.moderation.policy import Policy
from tollkeeper.moderation.scan import Finding, scan
from tollkeeper.providers.base import CallInput, StreamChunk

BLOCK = {"name": "no", "action": "block", "pattern": "forbidden", "stages": ["output"]}
MASK = {"name": "mask", "action": "redact", "pii": ["email"], "stages": ["output"]}
HIDE = {"name": "hide", "action": "redact", "pii": ["email"], "stages": ["input"]}
WORDS = [f"word{number} " for number in range(30)]


@pytest.fixture
async def gateway(sqlite_url: str) -> AsyncIterator[GatewayUnderTest]:
    async with open_gateway(sqlite_url) as opened:
        yield opened


def set_policy(gateway: GatewayUnderTest, *rules: dict[str, Any], **fields: Any) -> None:
    document = msgspec.convert({"rules": rules, "window": {"tokens": 4}, **fields}, PolicyDocument)
    gateway.policies.configure({gateway.caller.tenant_id: write_document(document)})


def ask(text: str) -> dict[str, Any]:
    """The changes of a call with this prompt."""
    request = ChatRequest((Message("user", text),))
    return {"input": CallInput(lambda: request)}


def sent_text(listener: RecordingListener) -> str:
    return "".join(delta.text for chunk in listener.chunks for delta in chunk.deltas if isinstance(delta, TextDelta))


def chunks(*texts: str) -> list[StreamChunk]:
    return [StreamChunk(b"", (TextDelta(text),)) for text in texts]


async def test_a_blocked_input_makes_no_charge_and_one_event(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, BLOCK | {"stages": ["input"]})
    with pytest.raises(ContentBlocked, match="The rule no of your tenant's moderation blocks this request"):
        await gateway.complete(**ask("this is forbidden, forbidden"))
    assert await gateway.charges() == []
    (event,) = gateway.seen
    assert (event.error, event.refused_by) == ("content_blocked", "no")
    assert event.moderation == (ModerationEvent("no", "pattern", "input", "block", enforced=True, findings=2),)


async def test_a_blocked_stream_is_paid_as_far_as_it_was_received(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, BLOCK)
    gateway.provider.streams = [[*chunks(*WORDS, "forbidden ", *WORDS), *final_chunks()]]
    listener = RecordingListener()
    result = await gateway.stream(listener)
    assert result.completion.finish_reason == "content_filter"
    assert result.completion.text == sent_text(listener)
    assert "forbidden".startswith(sent_text(listener)[-1:]) is False
    assert "".join(WORDS).startswith(sent_text(listener))
    assert (result.outcome.shortened, result.outcome.cut_short) == (True, False)
    charge = await gateway.charge()
    assert (charge.basis, charge.state) == ("counted", "settled")
    assert charge.output_tokens is not None
    assert len(sent_text(listener)) < charge.output_tokens < len("".join(WORDS)) + len("forbidden ") + 80
    assert gateway.provider.unfinished_streams == 1
    assert not gateway.seen[0].disconnected


async def test_a_model_that_bills_unseen_output_is_read_to_its_report(gateway: GatewayUnderTest) -> None:
    gateway.set_model(bills_hidden_output=True)
    set_policy(gateway, BLOCK)
    gateway.provider.streams = [[*chunks(*WORDS, "forbidden ", *WORDS), *final_chunks(USAGE)]]
    listener = RecordingListener()
    result = await gateway.stream(listener)
    assert result.completion.finish_reason == "content_filter"
    assert "forbidden" not in sent_text(listener)
    assert_charged(await gateway.charge(), "provider", USAGE.input_tokens, USAGE.output_tokens)


async def test_what_is_found_at_the_very_end_is_not_sent_either(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, BLOCK)
    gateway.provider.streams = [[*chunks("all is forbid", "den"), *final_chunks()]]
    listener = RecordingListener()
    with pytest.raises(CallFailed) as raised:
        await gateway.stream(listener)
    assert isinstance(raised.value.cause, ContentBlocked)
    assert listener.chunks == []
    charge = await gateway.charge()
    assert (charge.basis, charge.error) == ("provider", "content_blocked")


async def test_a_stream_that_breaks_shows_what_may_be_sent_of_what_was_received(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, BLOCK, MASK)
    for text, shown in (("hello a@b.example", "hello [EMAIL]"), ("hello forbidden", "")):
        gateway.provider.streams = [[*chunks(text), ProviderInterrupted()]]
        listener = RecordingListener()
        with pytest.raises(CallFailed):
            await gateway.stream(listener)
        assert sent_text(listener) == shown


async def test_a_stream_too_dense_to_check_is_blocked(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "MAX_CANDIDATES", 2)
    set_policy(gateway, MASK, BLOCK)
    dense = "a@b.example " * 9
    for end in (final_chunks(), [ProviderInterrupted()]):
        for begin in (dense, dense[:36]):
            gateway.provider.streams = [[*chunks(begin), *end]]
            listener = RecordingListener()
            with pytest.raises(CallFailed):
                await gateway.stream(listener)
            assert sent_text(listener) == ""
    assert (await gateway.charges())[0].error in ("content_blocked", "provider_error")


async def test_channels_keep_their_order_and_each_is_checked(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, MASK)
    mail = "m@x.example"
    gateway.provider.streams = [
        [
            StreamChunk(b"", (ReasoningDelta(f"ask {mail}"), ReasoningEnd("signed"))),
            StreamChunk(b"", (TextDelta(f"write to {mail[:3]}"),)),
            StreamChunk(b"", (TextDelta(mail[3:]), ToolCallDelta(0, "c1", "mail", '{"to": "m\\u0040x'))),
            StreamChunk(b"", (ToolCallDelta(0, None, None, '.example", "n": 1}'),)),
            *final_chunks(reason="tool_calls"),
        ]
    ]
    listener = RecordingListener()
    result = await gateway.stream(listener)
    deltas = [delta for chunk in listener.chunks for delta in chunk.deltas]
    assert deltas == [
        ReasoningDelta("ask [EMAIL]"),
        ReasoningEnd("signed"),
        TextDelta("write to [EMAIL]"),
        ToolCallDelta(0, "c1", "mail", '{"to": "[EMAIL]", "n": 1}'),
    ]
    assert result.completion.tool_calls == (ToolCall("c1", "mail", '{"to": "[EMAIL]", "n": 1}'),)
    assert result.completion.finish_reason == "tool_calls"


async def test_a_blocked_tool_call_is_not_sent(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, BLOCK)
    call = ToolCallDelta(0, "c1", "run", '{"command": "forbi\\u0064den"}')
    gateway.provider.streams = [[StreamChunk(b"", (TextDelta("I run it. "), call)), *final_chunks()]]
    listener = RecordingListener()
    result = await gateway.stream(listener)
    assert (result.completion.text, result.completion.tool_calls) == ("I run it. ", ())
    assert result.completion.finish_reason == "content_filter"


async def test_a_whole_answer_is_checked_in_all_its_parts(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, BLOCK, MASK)
    mail = "m@x.example"
    answer = Completion(
        f"to {mail}",
        "tool_calls",
        USAGE,
        (ToolCall("c", "mail", f'{{"to": "{mail}"}}'), ToolCall("d", "note", f"to {mail}", custom=True)),
        reasoning=f"of {mail}",
        signed_reasoning=(Reasoning(f"of {mail}", "signed"), Reasoning("else", "kept")),
    )
    gateway.provider.completions = [answer]
    masked = (await gateway.complete()).completion
    assert (masked.text, masked.reasoning) == ("to [EMAIL]", "of [EMAIL]")
    assert [call.arguments for call in masked.tool_calls] == ['{"to": "[EMAIL]"}', "to [EMAIL]"]
    assert masked.signed_reasoning == (Reasoning("of [EMAIL]"), Reasoning("else", "kept"))
    for part in (
        {"text": "forbidden"},
        {"reasoning": "forbidden"},
        {"refusal": "forbidden"},
        {"tool_calls": (ToolCall("c", "forbidden", "{}"),)},
    ):
        gateway.provider.completions = [Completion("", "stop", USAGE)._replace(**part)]
        with pytest.raises(CallFailed) as raised:
            await gateway.complete()
        assert isinstance(raised.value.cause, ContentBlocked), part
    assert {charge.basis for charge in await gateway.charges()} == {"provider"}


async def test_what_is_put_back_is_put_back_across_chunks(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, HIDE)
    seen: list[str] = []

    def answer() -> None:
        """The provider repeats the placeholder, one character per chunk."""
        (token,) = list(seen)
        gateway.provider.streams[0][1:1] = chunks(*f"<{token}> [EMAIL_")  # type: ignore[index]

    original = gateway.provider.prepare

    def prepare(model: Any, call_input: CallInput, *, stream: bool = False) -> Any:
        seen[:] = [call_input.chat_request.messages[0].text.removeprefix("I am ")]
        return original(model, call_input, stream=stream)

    gateway.provider.prepare = prepare  # type: ignore[method-assign]
    gateway.provider.streams = [[answer, *final_chunks()]]
    listener = RecordingListener()
    result = await gateway.stream(listener, **ask("I am ada@example.com"))
    assert seen[0].startswith("[EMAIL_")
    assert sent_text(listener) == "<ada@example.com> [EMAIL_"
    assert result.completion.text == "<ada@example.com> [EMAIL_"


async def test_a_flag_holds_nothing_back_and_passes_on_the_providers_own_bytes(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, {"name": "seen", "action": "flag", "words": ["hello"]})
    gateway.provider.streams = [[text_chunk("hello"), *final_chunks()]]
    listener = RecordingListener()
    await gateway.stream(listener, **ask("hello hello"))
    assert listener.chunks[0] == text_chunk("hello")
    found = [(one.stage, one.enforced, one.findings) for one in gateway.seen[0].moderation]
    assert found == [("input", False, 2), ("output", False, 1)]


async def test_a_silence_of_what_is_held_back_is_filled_with_pings(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = {"name": "judge", "action": "block", "stages": ["output"], "classifier": {"provider": "none"}}
    set_policy(gateway, judge)
    monkeypatch.setattr(gateway.inner._guarded, "_ping_s", 0.0)
    gateway.provider.streams = [[*chunks("one ", "two "), *final_chunks()]]
    listener = RecordingListener()
    with pytest.raises(CallFailed, match="could not check"):
        await gateway.stream(listener)
    assert (listener.chunks, listener.pings >= 2) == ([], True)
    assert (await gateway.charge()).error == "moderation_unavailable"


async def test_a_client_that_does_not_take_what_was_held_back_counts_as_gone(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_policy(gateway, BLOCK)
    monkeypatch.setattr(gateway.inner._guarded, "_total_s", 0.05)
    gateway.provider.streams = [[*chunks("short"), *final_chunks()]]
    result = await gateway.stream(RecordingListener(blocked_by=asyncio.Event()))
    assert result.outcome.cut_short
    assert (await gateway.charge()).basis == "provider"


async def test_several_answers_at_once_cannot_be_checked(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, HIDE)
    request = ChatRequest((Message("user", "ada@example.com"),))
    with pytest.raises(InvalidRequest, match="Leave n out"):
        await gateway.complete(input=CallInput(lambda: request, choices=2))


async def test_another_tenants_policy_and_another_surface_change_nothing(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, BLOCK | {"stages": ["input"], "surfaces": ["chat"]})
    assert (await gateway.complete(**ask("forbidden"))).completion.text == "yes"
    gateway.policies.configure({gateway.caller.tenant_id + 1: '{"rules":[]}'})
    assert (await gateway.complete(**ask("forbidden"))).completion.text == "yes"
    assert [event.moderation for event in gateway.seen] == [(), ()]


def held(*rules: dict[str, Any], follows: str = "", **window: Any) -> HeldText:
    document = msgspec.convert({"rules": rules, "window": window}, PolicyDocument)
    policy = Policy(document).for_surface("query")
    assert policy is not None
    return HeldText(policy, lambda _: None, follows=follows)


@given(st.lists(st.sampled_from(["a ", "bc", " d@e.example ", "f, ", "g. H", "漢字"]), max_size=60), st.booleans())
def test_however_a_text_is_divided_the_same_is_sent(pieces: list[str], by_sentence: bool) -> None:
    """In pieces, and all at once."""
    window = {"unit": "sentence"} if by_sentence else {"tokens": 2}
    parts, whole = held(MASK, **window), held(MASK, **window)
    sent = ""
    for piece in pieces:
        parts.feed(piece)
        released, blocked = parts.take()
        assert blocked is None
        sent += released
    whole.feed("".join(pieces))
    assert sent + parts.take(final=True)[0] == whole.take(final=True)[0]


def test_a_sentence_is_sent_when_it_is_complete() -> None:
    text = held(BLOCK, unit="sentence")
    sent = []
    for piece in ("One", " sentence. ", "Two", " more? Th", "ree"):
        text.feed(piece)
        sent.append(text.take()[0])
    assert sent == ["", "One sentence. ", "", "Two more? ", ""]
    text.feed(" forbidden. ")
    released, blocked = text.take()
    assert released == ""
    assert blocked is not None


def test_a_word_without_end_is_sent_in_the_end() -> None:
    text = held(BLOCK, tokens=1)
    text.feed("x" * 5_000)
    assert len(text.take()[0]) > 4_000


@pytest.mark.parametrize("window", [{"tokens": 4}, {"tokens": 2_000}, {"unit": "sentence"}])
def test_a_long_text_that_is_held_back_is_searched_in_time_linear_to_it(
    window: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = 0

    def counting_scan(rules: Any, text: str) -> list[Finding]:
        nonlocal searched
        searched += len(text)
        return scan(rules, text)

    monkeypatch.setattr(moderated_text, "scan", counting_scan)
    text = held({"name": "one", "action": "redact", "pattern": "x[x.\n]+"}, **window)
    passed = ""
    for _ in range(5_000):
        text.feed("xx.\n")
        passed += text.take()[0]
    passed += text.take(final=True)[0]
    assert passed.replace("[REDACTED]", "") == ""
    assert searched < 40 * 20_000, "once for each piece is 2,500 times"


def taken(text: HeldText, pieces: Sequence[str]) -> tuple[str, bool]:
    """What is sent of these pieces, and whether the rest is blocked."""
    sent = ""
    for piece in pieces:
        text.feed(piece)
        released, blocked = text.take()
        sent += released
        if blocked is not None:
            return sent, True
    released, blocked = text.take(final=True)
    return sent + released, blocked is not None


def test_what_is_not_seen_does_not_push_a_match_out_of_the_window() -> None:
    rule = {"name": "no", "action": "block", "words": ["Project Heron"]}
    for padding in ("\u200b", " ", "\u0337"):
        sent, is_blocked = taken(held(rule, tokens=4), ["It is Project " + padding * 500, " Heron."])
        assert (is_blocked, "Project" in sent) == (True, False), padding


def test_a_text_that_another_kind_divides_is_searched_as_one_and_each_part_by_itself() -> None:
    rule = {"name": "no", "action": "block", "words": ["Project Heron", "bar"]}
    first = held(rule, tokens=4)
    assert taken(first, ["It is Project "]) == ("It is Project ", False)
    assert taken(held(rule, follows=first.sent), ["Heron."]) == ("", True)
    assert taken(held(rule, follows="foo"), ["bar."]) == ("", True)
