"""Extra parameters: which the catalog may list, and what each provider does with those of a request."""

from typing import Any

import orjson
import pytest

from tollkeeper.chat import ChatRequest, Message
from tollkeeper.dialects import chat, embeddings, messages, responses
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import DROP, PASS, REFUSE, KnownFields
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.providers.anthropic import AnthropicProvider
from tollkeeper.providers.base import CallInput, Model, PreparedCall, Provider, RawRequest, Wire
from tollkeeper.providers.echo import EchoProvider
from tollkeeper.providers.extra_parameters import complaint_about
from tollkeeper.providers.ollama import OllamaProvider
from tollkeeper.providers.openai import OpenAIProvider

URL = "http://127.0.0.1:1"
OPENAI = OpenAIProvider(api_key="k", base_url=URL, timeout_s=5)
ANTHROPIC = AnthropicProvider(api_key="k", base_url=URL, timeout_s=5)
OLLAMA = OllamaProvider(base_url=URL, timeout_s=5)
ECHO = EchoProvider()
HELLO = ChatRequest((Message("user", "hello"),))
ONE_OF_EACH = {"top_k": PASS, "seen": PASS, "enable_thinking": DROP, "documents": REFUSE}
OWN: dict[Wire, dict[str, Any]] = {
    Wire.CHAT: {"messages": [{"role": "user", "content": "hello"}]},
    Wire.RESPONSES: {"input": "hello"},
    Wire.MESSAGES: {"messages": [{"role": "user", "content": "hello"}]},
    Wire.EMBEDDINGS: {"input": "hello"},
}
OWN_WIRES = [
    (OPENAI, Wire.CHAT),
    (OPENAI, Wire.RESPONSES),
    (OPENAI, Wire.EMBEDDINGS),
    (ANTHROPIC, Wire.MESSAGES),
]
OTHER_WIRES = [
    (OPENAI, Wire.MESSAGES),
    (ANTHROPIC, Wire.CHAT),
    (ANTHROPIC, Wire.RESPONSES),
    (OLLAMA, Wire.CHAT),
    (ECHO, Wire.CHAT),
    (ECHO, Wire.MESSAGES),
]


def encoded(fields: dict[str, Any]) -> dict[str, bytes]:
    return {name: orjson.dumps(value) for name, value in fields.items()}


def input_with(wire: Wire, **extra: Any) -> CallInput:
    return CallInput(lambda: HELLO, RawRequest(wire, encoded(OWN[wire]), InputSize(1), encoded(extra)))


def prepare(provider: Provider, call_input: CallInput) -> PreparedCall:
    return provider.prepare(Model("m", provider, extra_parameters=ONE_OF_EACH), call_input)


def prepared(provider: Provider, wire: Wire, **extra: Any) -> PreparedCall:
    return prepare(provider, input_with(wire, **extra))


def sent(call: PreparedCall) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(call.body_with_limit(7))
    return body


@pytest.mark.parametrize(("provider", "wire"), OWN_WIRES)
def test_on_the_wire_of_the_provider_a_parameter_is_passed_or_dropped_as_the_catalog_says(
    provider: Provider, wire: Wire
) -> None:
    without = sent(prepared(provider, wire))
    seen = {"list": [1, None], "text": "é"}
    assert sent(prepared(provider, wire, top_k=40, seen=seen, enable_thinking=False)) == {
        **without,
        "top_k": 40,
        "seen": seen,
    }


@pytest.mark.parametrize(("provider", "wire"), [*OWN_WIRES, *OTHER_WIRES, (ECHO, Wire.EMBEDDINGS)])
@pytest.mark.parametrize("name", ["documents", "unlisted"])
def test_a_parameter_that_is_refused_or_not_listed_is_refused_by_name(
    provider: Provider, wire: Wire, name: str
) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(provider, wire, **{name: 1})
    assert refused.value.parameter == name
    assert refused.value.detail == f"This provider does not take {name}. Leave it out, or ask the operator."


@pytest.mark.parametrize(("provider", "wire"), OTHER_WIRES)
def test_a_translated_call_drops_what_is_dropped_and_refuses_what_is_passed_on(provider: Provider, wire: Wire) -> None:
    """A parameter has its meaning only on the wire that it was written for."""
    assert prepared(provider, wire, enable_thinking=True).body == prepared(provider, wire).body
    with pytest.raises(UnsupportedParameter) as refused:
        prepared(provider, wire, top_k=40)
    assert refused.value.parameter == "top_k"


@pytest.mark.parametrize(("provider", "wire"), [*OWN_WIRES, *OTHER_WIRES, (ECHO, Wire.EMBEDDINGS)])
def test_the_caller_is_told_of_what_is_dropped(provider: Provider, wire: Wire) -> None:
    call_input = input_with(wire, enable_thinking=True)
    prepare(provider, call_input)
    assert call_input.dropped.names == ("enable_thinking",)


def test_a_name_that_cannot_be_shown_is_not_in_the_sentence() -> None:
    for name in ("a\nb", "é", "x" * 61):
        with pytest.raises(UnsupportedParameter) as refused:
            prepared(OPENAI, Wire.CHAT, **{name: 1})
        assert refused.value.detail.startswith("This provider does not take this parameter.")


async def test_text_in_a_parameter_that_is_passed_on_counts_as_input_and_one_that_is_dropped_does_not() -> None:
    """Else a caller could put a prompt where nothing counts it."""
    texts = prepared(OPENAI, Wire.CHAT, seen={"documents": ["a document"]}, enable_thinking="dropped").texts()
    assert "a document" in texts
    assert "dropped" not in texts
    plain = prepared(OPENAI, Wire.CHAT)
    assert prepared(OPENAI, Wire.CHAT, top_k=40).texts() == plain.texts()
    long = prepared(OPENAI, Wire.CHAT, seen="word " * 1_000)
    assert await OPENAI.count_input(long) > await OPENAI.count_input(plain) + 900
    assert len(long.body) > 5_000, "the hold is sized by the body"


def treated() -> list[str]:
    """The parameters of every wire that are not simply passed on."""
    rules = [*chat.PARAMETERS.items(), *responses.PARAMETERS.items(), *messages.PARAMETERS.items()]
    rules += embeddings.PARAMETERS.items()
    return sorted(
        {
            name
            for name, rule in rules
            if not (rule is PASS or (isinstance(rule, KnownFields) and rule.treatment is PASS))
        }
    )


@pytest.mark.parametrize("name", treated())
def test_a_parameter_that_tollkeeper_treats_cannot_be_listed(name: str) -> None:
    for variant in (name, name.upper(), name.replace("_", ""), name.replace("_", "-")):
        assert complaint_about(variant) == "Tollkeeper treats this parameter itself, so it cannot be listed"


def test_the_treated_parameters_are_those_that_decide_the_cost() -> None:
    expected = {"model", "n", "max_tokens", "max_completion_tokens", "max_output_tokens", "stream", "stream_options"}
    assert expected | {"store", "service_tier", "messages", "tools", "input", "web_search_options"} <= set(treated())


@pytest.mark.parametrize(
    "name",
    [
        "best_of",
        "max_new_tokens",
        "maxOutputTokens",
        "plugins",
        "models",
        "provider",
        "chat_template",
        "prompt_embeds",
        "n_predict",
    ],
)
def test_a_parameter_that_can_raise_the_cost_cannot_be_listed(name: str) -> None:
    assert complaint_about(name) is not None


@pytest.mark.parametrize("name", ["temperature", "top_p", "tool_choice"])
def test_a_parameter_of_every_wire_is_not_an_extra_one(name: str) -> None:
    assert complaint_about(name) == "every wire format has this parameter, so it is not an extra one"


@pytest.mark.parametrize(
    "name",
    [
        "top_k",
        "min_p",
        "repetition_penalty",
        "chat_template_kwargs",
        "enable_thinking",
        "thinking",
        "reasoning",
        "input_type",
        "truncate",
        "guided_json",
        "seed",
    ],
)
def test_the_usual_extensions_of_compatible_servers_can_be_listed(name: str) -> None:
    assert complaint_about(name) is None
