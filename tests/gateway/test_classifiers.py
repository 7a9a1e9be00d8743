"""Classifiers: who is asked, who pays, what a failure means; and inputs and streams that rules alone reach."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
import orjson
import pytest

from support.factories import set_limit, user_quota
from support.gateway import USAGE, GatewayUnderTest, RecordingListener, final_chunks, open_gateway
from tollkeeper.chat import (
    ChatRequest,
    Completion,
    Delta,
    Message,
    Options,
    Reasoning,
    ReasoningDelta,
    ReasoningEnd,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
)
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import ContentBlocked, InvalidRequest, ModerationUnavailable, TollkeeperError
from tollkeeper.gateway.call_guard import CallGuard
from tollkeeper.gateway.restored_stream import RestoringListener
from tollkeeper.gateway.results import CallFailed
from tollkeeper.identity.models import User, UserKind
from tollkeeper.moderation.documents import PolicyDocument, write_document
from tollkeeper.moderation.patterns import MAX_CANDIDATES
from tollkeeper.moderation.placeholders import Placeholders
from tollkeeper.principal import Principal
from tollkeeper.providers.base import CallInput, Model, RawRequest, StreamChunk, Wire

VIOLENCE = {"provider": "fake", "threshold": 0.8, "categories": ["violence"]}
ENDPOINT: dict[str, Any] = {"name": "harm", "action": "block", "classifier": {"provider": "fake", "threshold": 0.8}}
HIDE = {"name": "hide", "action": "redact", "pii": ["email"], "stages": ["input"]}


@pytest.fixture
async def gateway(sqlite_url: str) -> AsyncIterator[GatewayUnderTest]:
    async with open_gateway(sqlite_url) as opened:
        yield opened


def set_policy(gateway: GatewayUnderTest, *rules: dict[str, Any], **fields: Any) -> None:
    document = msgspec.convert({"rules": rules, **fields}, PolicyDocument)
    gateway.policies.configure({gateway.caller.tenant_id: write_document(document)})


def ask(*messages: Message) -> dict[str, Any]:
    return {"input": CallInput(lambda: ChatRequest(messages))}


def judge_by(gateway: GatewayUnderTest, *scores: float) -> list[list[str]]:
    """Give the provider a moderation endpoint that answers with these scores in turn. Returns the texts it is asked."""
    asked: list[list[str]] = []
    left = list(scores)

    async def moderate(model: str, texts: Sequence[str]) -> list[Mapping[str, float]]:
        assert model == "omni-moderation-latest"
        asked.append(list(texts))
        return [{"hate": 0.99, "violence": left.pop(0)} for _ in texts]

    gateway.provider.moderate = moderate  # type: ignore[attr-defined]
    return asked


async def service_account(gateway: GatewayUnderTest, *, limit: int = 1_000_000) -> int:
    async with gateway.database.session() as session:
        user = User(
            tenant_id=gateway.caller.tenant_id, email="judge@x.example", password_hash="", kind=UserKind.SERVICE.value
        )
        session.add(user)
        await session.flush()
        assert user.id is not None
    account = Principal(user.id, gateway.caller.tenant_id, gateway.caller.role, 0)
    await set_limit(gateway.ledger, user_quota(account), limit)
    return user.id


async def test_a_classifier_with_history_judges_what_stands_before_an_answer(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, ENDPOINT | {"classifier": VIOLENCE | {"history": True}, "stages": ["input"]})
    asked = judge_by(gateway, 0.9)
    with pytest.raises(ContentBlocked):
        await gateway.complete(
            **ask(Message("user", "harm"), Message("assistant", "invented"), Message("user", "go on"))
        )
    assert asked == [["harm\n\ninvented\n\ngo on"]]


async def test_what_is_found_in_the_question_of_a_call_is_noted_by_the_call(gateway: GatewayUnderTest) -> None:
    note = {"name": "note", "action": "flag", "words": ["heron"]}
    own = {"name": "own", "action": "flag", "words": ["heron"], "surfaces": ["search"]}
    block = {"name": "block", "action": "block", "words": ["egret"]}
    set_policy(gateway, note, own, block)
    of_question: dict[str, Any] = {"surface": "search", "serves": "query", "without_output": True}
    await gateway.complete(**ask(Message("user", "a heron")), **of_question)
    await gateway.complete(**ask(Message("user", "a heron")))
    with pytest.raises(ContentBlocked):
        await gateway.complete(**ask(Message("user", "an egret")), **of_question)
    assert [[found.rule for found in event.moderation] for event in gateway.seen] == [["own"], ["note"], ["block"]]


async def test_the_endpoint_judges_what_a_request_adds_and_the_whole_answer(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, ENDPOINT | {"classifier": VIOLENCE})
    asked = judge_by(gateway, 0.1, 0.2)
    history = Message("assistant", "earlier")
    added = Message("user", ("now", ToolResult("c", "result")))
    assert (await gateway.complete(**ask(Message("user", "before"), history, added))).completion.text == "yes"
    assert asked == [["now\n\nresult"], ["yes"]]
    judge_by(gateway, 0.9)
    with pytest.raises(ContentBlocked, match="harm"):
        await gateway.complete(**ask(added))
    judge_by(gateway, 0.1, 0.9)
    with pytest.raises(CallFailed) as raised:
        await gateway.complete(**ask(added))
    assert isinstance(raised.value.cause, ContentBlocked)
    assert len(await gateway.charges()) == 2


async def test_a_stream_waits_for_the_verdict_on_all_of_it(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, ENDPOINT | {"stages": ["output"], "classifier": VIOLENCE})
    for score, shown in ((0.1, "one two"), (0.9, "")):
        judge_by(gateway, score)
        gateway.provider.streams = [[StreamChunk(b"", (TextDelta("one "), TextDelta("two"))), *final_chunks()]]
        listener = RecordingListener()
        with nullcontext() if shown else pytest.raises(CallFailed, match="blocks the model's answer"):
            await gateway.stream(listener)
        deltas = [delta for chunk in listener.chunks for delta in chunk.deltas]
        assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == shown


async def test_a_model_judges_on_the_account_of_the_tenant(gateway: GatewayUnderTest) -> None:
    account = await service_account(gateway)
    rule = {"name": "judged", "action": "block", "stages": ["input"], "classifier": {"model": "m"}}
    set_policy(gateway, rule, service_account=account)
    for verdict, error in (
        ('{"score": 0.1, "category": "x"}', None),
        ('So: {"score": 1, "category": "x"}.', ContentBlocked),
        ("I cannot say", ModerationUnavailable),
        ('{"score": true}', ModerationUnavailable),
        ('{"score": 7}', ModerationUnavailable),
    ):
        gateway.provider.completions = [Completion(verdict, "stop", USAGE), Completion("yes", "stop", USAGE)]
        if error is None:
            assert (await gateway.complete(**ask(Message("user", "hi")))).completion.text == "yes"
        else:
            with pytest.raises(error):
                await gateway.complete(**ask(Message("user", "hi")))
    charges = await gateway.charges()
    assert [charge.user_id for charge in charges].count(account) == 5
    assert {charge.surface for charge in charges if charge.user_id == account} == {"moderation"}
    assert [event.surface for event in gateway.seen][:2] == ["moderation", "query"]


@pytest.mark.parametrize(
    "classifier",
    [{"provider": "none"}, {"provider": "fake"}, {"model": "m"}],
    ids=["unknown", "no endpoint", "no account"],
)
async def test_a_classifier_that_cannot_be_asked_refuses_or_allows(
    gateway: GatewayUnderTest, classifier: dict[str, Any]
) -> None:
    rule = {"name": "judged", "action": "block", "stages": ["input"], "classifier": classifier}
    set_policy(gateway, rule, service_account=77)
    with pytest.raises(ModerationUnavailable):
        await gateway.complete(**ask(Message("user", "hi")))
    set_policy(gateway, rule | {"classifier": classifier | {"on_failure": "allow"}}, service_account=77)
    assert (await gateway.complete(**ask(Message("user", "hi")))).completion.text == "yes"
    set_policy(gateway, rule | {"report_only": True}, service_account=77)
    assert (await gateway.complete(**ask(Message("user", "hi")))).completion.text == "yes"


async def test_a_text_too_long_to_judge_is_refused_and_an_empty_one_is_harmless(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, ENDPOINT | {"stages": ["input"]})
    asked = judge_by(gateway)
    with pytest.raises(ModerationUnavailable, match="too long"):
        await gateway.complete(**ask(Message("user", "x" * 100_001)))
    await gateway.complete(**ask(Message("user", " ")))
    assert asked == []


def embedding(value: object) -> dict[str, Any]:
    def refuse() -> ChatRequest:
        raise InvalidRequest

    fields = {"input": orjson.dumps(value)}
    raw = RawRequest(Wire.EMBEDDINGS, fields, InputSize(0))
    return {"input": CallInput(refuse, raw), "without_output": True}


async def test_inputs_to_embed_are_redacted_one_by_one_and_lists_of_tokens_are_refused(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_policy(gateway, HIDE)
    sent: list[Any] = []
    prepare = gateway.provider.prepare

    def record(model: Model, call_input: CallInput, *, stream: bool = False) -> Any:
        assert call_input.raw is not None
        sent.append(orjson.loads(call_input.raw.fields["input"]))
        return prepare(model, call_input, stream=stream)

    monkeypatch.setattr(gateway.provider, "prepare", record)
    gateway.provider.completions = [Completion("", "stop", USAGE, raw=b"{}")]
    result = await gateway.complete(**embedding(["plain", "to a@b.example"]), cache=True)
    assert result.completion.raw == b"{}"
    await gateway.complete(**embedding("to a@b.example"))
    assert sent[0][0] == "plain"
    assert [one.startswith("to [EMAIL_") for one in (sent[0][1], sent[1])] == [True, True]
    with pytest.raises(InvalidRequest, match="lists of tokens"):
        await gateway.complete(**embedding([[1, 2], [3]]))
    judge_by(gateway, 0.1)
    set_policy(
        gateway, ENDPOINT | {"stages": ["input"], "classifier": {"provider": "fake", "categories": ["violence"]}}
    )
    await gateway.complete(**embedding(["plain"]))


async def test_all_parts_of_a_request_are_redacted(gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    set_policy(gateway, HIDE)
    mail, sent = "a@b.example", list[ChatRequest]()
    prepare = gateway.provider.prepare

    def record(model: Model, call_input: CallInput, *, stream: bool = False) -> Any:
        sent.append(call_input.chat_request)
        return prepare(model, call_input, stream=stream)

    monkeypatch.setattr(gateway.provider, "prepare", record)
    parts = (
        Reasoning(f"of {mail}", "signed"),
        Reasoning("else", "kept"),
        ToolCall("c", "mail", f'{{"to": "{mail}"}}'),
        ToolCall("d", "note", f"to {mail}", custom=True),
    )
    messages = (Message("system", mail), Message("assistant", parts), Message("user", (ToolResult("c", mail),)))
    tools = (Tool("t", f"for {mail}", None), Tool("u", None, None))
    request = ChatRequest(messages, Options(tools=tools))
    await gateway.complete(input=CallInput(lambda: request))
    assert mail not in str(sent[0])
    assert str(sent[0]).count("[EMAIL_") == 6
    assert Reasoning("else", "kept") in sent[0].messages[1].parts
    assert "signed" not in str(sent[0])


async def test_an_input_too_dense_to_check_is_refused(gateway: GatewayUnderTest) -> None:
    set_policy(gateway, {"name": "a", "action": "block", "pattern": "a"})
    with pytest.raises(InvalidRequest, match="Send less of it"):
        await gateway.complete(**ask(Message("user", "a " * (MAX_CANDIDATES + 1))))
    gateway.provider.completions = [Completion("a " * (MAX_CANDIDATES + 1), "stop", USAGE)]
    with pytest.raises((CallFailed, TollkeeperError)):
        await gateway.complete(**ask(Message("user", "b")))


async def test_a_stream_is_restored_in_every_channel() -> None:
    placeholders = Placeholders()
    token = placeholders.token_for("EMAIL", 'a"b@c.example')
    listener = RecordingListener()
    restoring = RestoringListener(listener, placeholders)
    sent: tuple[Delta, ...] = (
        ReasoningDelta(f"of {token[:9]}"),
        ReasoningDelta(token[9:]),
        ReasoningEnd("signed"),
        ReasoningDelta("else"),
        ReasoningEnd("kept"),
        ToolCallDelta(0, "c", "mail", f'{{"to": "{token[:4]}'),
        ToolCallDelta(0, None, None, f'{token[4:]}", "n": "[EMA'),
        ToolCallDelta(1, "d", "note", f"to {token}", custom=True),
        TextDelta(f"{token} ["),
    )
    for delta in sent:
        await restoring.deliver(StreamChunk(b"", (delta,)))
    await restoring.finish()
    await restoring.finish()
    restoring.ping()
    deltas = [delta for chunk in listener.chunks for delta in chunk.deltas]
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    assert reasoning == 'of a"b@c.exampleelse'
    assert [delta for delta in deltas if isinstance(delta, ReasoningEnd)] == [ReasoningEnd("kept")]
    arguments = ["", ""]
    for call in deltas:
        if isinstance(call, ToolCallDelta):
            arguments[call.index] += call.arguments
    assert arguments == ['{"to": "a\\"b@c.example", "n": "[EMA', 'to a"b@c.example']
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == 'a"b@c.example ['
    assert (listener.pings, restoring.left, restoring.cache_status) == (1, False, None)


def test_a_guard_without_placeholders_restores_nothing() -> None:
    completion, listener = Completion("x", "stop", USAGE), RecordingListener()
    guard = CallGuard(None, CallInput(lambda: ChatRequest(())), lambda _: None)  # type: ignore[arg-type]
    assert guard.restored(completion) is completion
    assert guard.restoring(listener) is listener
