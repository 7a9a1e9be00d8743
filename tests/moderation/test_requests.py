"""Where the texts of a request are, and that each is found and replaced, however deep it is nested."""

import time
from typing import Any

import orjson
import pytest

from tollkeeper.chat import ChatRequest, Grammar, Message, Options, Tool, ToolCall
from tollkeeper.moderation.documents import PolicyDocument, RuleDocument
from tollkeeper.moderation.policy import Policy, SurfacePolicy
from tollkeeper.moderation.requests import change_texts
from tollkeeper.moderation.scan import map_json, scan, texts_in_json

EMAIL = "ada@example.com"


def hide(text: str) -> str:
    return text.replace(EMAIL, "[EMAIL]")


def nested(depth: int, value: Any) -> str:
    return "[" * depth + orjson.dumps(value).decode() + "]" * depth


@pytest.mark.parametrize("depth", [1, 254, 255, 999, 1023])
def test_json_is_changed_at_any_depth(depth: int) -> None:
    assert map_json(nested(depth, f"to {EMAIL}"), hide) == nested(depth, "to [EMAIL]")
    assert texts_in_json(nested(depth, EMAIL)) == [EMAIL]


def test_strings_keys_and_numbers_of_json_are_changed_as_they_read() -> None:
    text = '{"a\\"b": ["\\u0061da@example.com", 4111.5, true, null], "ada@example.com": -1e3}'
    changed = map_json(text, lambda one: hide(one).replace("4111.5", "[CARD]"))
    assert changed == '{"a\\"b": ["[EMAIL]", "[CARD]", true, null], "[EMAIL]": -1e3}'


def test_what_is_no_json_is_changed_as_a_text() -> None:
    assert map_json(f'{{"to": "{EMAIL}', hide) == '{"to": "[EMAIL]'


def test_what_a_rule_redacts_in_tools_and_schemas_is_replaced() -> None:
    schema = {"type": "object", "properties": {"to": {"type": "string", "description": EMAIL, "enum": [EMAIL, "x"]}}}
    options = Options(
        tools=(
            Tool("send", f"Mail to {EMAIL}", schema),
            Tool("write", None, None, custom=True, grammar=Grammar("lark", f'start: "{EMAIL}"')),
        ),
        schema=schema,
        schema_description=f"For {EMAIL}",
    )
    messages = (Message("user", EMAIL), Message("assistant", (ToolCall("1", "send", nested(300, EMAIL)),)))
    changed = change_texts(ChatRequest(messages, options), hide)
    assert not [text for text in changed.texts if EMAIL in text]
    assert changed.options.tools[0].parameters == orjson.loads(hide(orjson.dumps(schema).decode()))
    assert change_texts(ChatRequest(messages, options), lambda text: text) == ChatRequest(messages, options)


def word_policy(*words: str) -> SurfacePolicy:
    rule = RuleDocument(name="words", action="redact", words=words)
    policy = Policy(PolicyDocument(rules=(rule,))).for_surface("query")
    assert policy is not None
    return policy


def words_found(text: str, *words: str) -> list[str]:
    return [text[one.start : one.end] for one in scan(word_policy(*words).input_rules, text)]


def test_a_word_is_found_where_another_one_of_the_list_is_part_of_a_longer_word() -> None:
    assert words_found("cat category CAT, concat", "cat", "categ") == ["cat", "CAT"]
    assert words_found("red fox, xred fox", "red fox", "fox") == ["red fox", "fox"]
    assert words_found("red foxes", "red fox", "red") == ["red"]
    assert words_found("über Übermut", "über", "überm") == ["über"]


def test_a_long_list_of_words_is_searched_for_in_time_linear_to_the_text() -> None:
    policy = word_policy("a", *(f"a{number}" for number in range(499)))
    started = time.process_time()
    assert scan(policy.input_rules, "a" * 10_000) == []
    assert time.process_time() - started < 1.5  # each word compared at each place takes more than three seconds
