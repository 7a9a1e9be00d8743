"""Seals around the signatures of reasoning, and what a model receives of sealed requests."""

import re

from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.chat import ChatRequest, Message, Reasoning, ToolCall, ToolResult
from tollkeeper.dialects.signatures import Kind, Signature, open_request, open_seal, seal, split_call_id

texts = st.text(st.characters(codec="utf-8"))


@given(texts, texts, st.sampled_from(["thinking", "redacted", "encrypted", "extra"]))
def test_a_seal_opens_to_the_signature_in_it_and_has_only_letters_of_call_ids(
    value: str, text: str, kind: Kind
) -> None:
    sealed = seal("m", kind, value, text)
    assert open_seal(sealed, "m", text) == Signature(kind, value)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", sealed)
    assert split_call_id(f"call_1{sealed}") == ("call_1", sealed)


def test_a_seal_does_not_open_for_another_model_or_another_text() -> None:
    sealed = seal("m", "thinking", "s", "hm")
    assert open_seal(sealed, "other", "hm") is None
    assert open_seal(sealed, "m", "hm, hm") is None
    assert open_seal("s", "m", "") is None
    assert open_seal(sealed + "!", "m", "hm") is None


@given(st.text("__tksig1trex0123456789abcdef-_", max_size=60))
def test_any_text_opens_or_is_no_seal(text: str) -> None:
    opened = open_seal(text, "m")
    assert opened is None or isinstance(opened, Signature)


def opened_parts(*parts: Reasoning | ToolCall | ToolResult | str, unsigned: bool) -> list[Message]:
    request = ChatRequest((Message("user", "hi"), Message("assistant", parts)))
    kinds: frozenset[Kind] = frozenset({"thinking", "redacted", "extra"})
    return list(open_request(request, "m", kinds, unsigned=unsigned).messages)


def test_a_model_receives_its_own_signatures() -> None:
    own = Reasoning("hm", seal("m", "thinking", "s", "hm"))
    redacted = Reasoning("", seal("m", "redacted", "r"))
    for unsigned in (False, True):
        _, message = opened_parts(own, redacted, "well", unsigned=unsigned)
        assert message.content == (Reasoning("hm", "s"), Reasoning("", "r", redacted=True), "well")


def test_of_other_reasoning_only_the_text_is_kept_and_only_for_models_that_take_it_unsigned() -> None:
    foreign = [
        Reasoning("a", seal("other", "thinking", "s", "a")),
        Reasoning("b", "a signature of someone"),
        Reasoning("c"),
        Reasoning("d", seal("m", "encrypted", "s", "d")),
        Reasoning("e", seal("m", "extra", "{}", "e")),
        Reasoning("changed", seal("m", "thinking", "s", "hm")),
        Reasoning("", seal("other", "redacted", "s")),
    ]
    kept = tuple(Reasoning(one.text) for one in foreign if one.text)
    assert opened_parts(*foreign, "well", unsigned=True)[1].content == (*kept, "well")
    assert opened_parts(*foreign, "well", unsigned=False)[1].content == ("well",)
    assert len(opened_parts(*foreign, unsigned=False)) == 1  # a message of nothing else is left out


def test_a_call_and_its_result_receive_the_models_own_id_and_extra_content() -> None:
    own, foreign = seal("m", "extra", '{"a":1}'), seal("other", "extra", '{"a":1}')
    reasoning = seal("m", "thinking", "s", "hm")
    request = ChatRequest(
        (
            Message(
                "assistant", tuple(ToolCall(f"c{n}{one}", "f", "{}") for n, one in enumerate((own, foreign, reasoning)))
            ),
            Message(
                "user",
                (ToolResult(f"c0{own}", "1"), ToolResult(f"c1{foreign}", "2"), ToolResult(f"c2{reasoning}", "3")),
            ),
        )
    )
    opened = open_request(request, "m", frozenset({"extra"}), unsigned=True)
    assert [(part.id, part.signature) for part in opened.messages[0].parts if isinstance(part, ToolCall)] == [
        ("c0", '{"a":1}'),
        ("c1", ""),
        ("c2", ""),
    ]
    assert [part.call_id for part in opened.messages[1].parts if isinstance(part, ToolResult)] == ["c0", "c1", "c2"]


def test_a_request_without_anything_carried_is_the_same_object() -> None:
    request = ChatRequest((Message("user", "hi"), Message("assistant", ("a", ToolCall("c", "f", "{}")))))
    assert open_request(request, "m", frozenset(), unsigned=False) is request
