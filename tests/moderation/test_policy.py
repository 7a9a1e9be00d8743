"""A policy: which rules apply where, what words and patterns find, and how a policy is stored."""

from typing import Any

import msgspec
import pytest

from tollkeeper.errors import InvalidRequest, ModerationUnavailable
from tollkeeper.moderation.documents import PolicyDocument, read_document, write_document
from tollkeeper.moderation.patterns import SLICE_CHARS, TooDense, compile_pattern, find_spans
from tollkeeper.moderation.policies import Policies
from tollkeeper.moderation.policy import Policy, compile_policy, example
from tollkeeper.moderation.scan import (
    TooManyFindings,
    count_by_rule,
    map_json,
    redact_text,
    redactions,
    scan,
    texts_in_json,
)


def document(*rules: dict[str, Any], **fields: Any) -> PolicyDocument:
    return msgspec.convert({"rules": rules, **fields}, PolicyDocument)


def found(text: str, **rule: Any) -> list[str]:
    policy = Policy(document({"name": "x", "action": "redact"} | rule)).for_surface("query")
    assert policy is not None
    return [text[one.start : one.end] for one in scan(policy.input_rules, text)]


def test_words_are_found_in_any_case_and_not_within_longer_words() -> None:
    text = "Foo, FOOD, a foo-bar; foobar xfoo foo. Straße STRASSE"
    assert found(text, words=["foo", "straße"]) == ["Foo", "foo", "foo", "Straße"]
    assert found("foo bars and foo bar", words=["foo bar", "foo"]) == ["foo", "foo bar"]
    assert found("C++ and c+", words=["c++", "c"]) == ["C++", "c"]
    assert found("私は東京都に住む", words=["東京"]) == ["東京"]


def test_a_pattern_takes_linear_time_also_where_each_match_reads_to_the_end() -> None:
    compiled = compile_pattern("x|x.*y")
    with pytest.raises(TooDense):
        list(find_spans(compiled, "x" * SLICE_CHARS))


def test_a_pattern_sees_the_characters_around_a_slice() -> None:
    compiled = compile_pattern(r"\bword\b")
    text = "aword" * (SLICE_CHARS // 5 + 3) + " word"
    assert [text[start:end] for start, end in find_spans(compiled, text)] == ["word"]


def test_a_rule_applies_to_its_surfaces_and_stages_only() -> None:
    policy = Policy(
        document(
            {"name": "a", "action": "block", "words": ["a"], "surfaces": ["chat"], "stages": ["output"]},
            {"name": "b", "action": "flag", "pii": ["email"], "surfaces": ["chat", "query"]},
        )
    )
    chat, query = policy.for_surface("chat"), policy.for_surface("query")
    assert chat is not None
    assert query is not None
    assert [rule.name for rule in chat.input_rules] == ["b"]
    assert [rule.name for rule in chat.output_rules] == ["a", "b"]
    assert (chat.holds_back, query.holds_back, query.checks_output) == (True, False, True)
    assert policy.for_surface("messages") is None


def test_a_report_only_rule_holds_nothing_back() -> None:
    quiet = Policy(document({"name": "a", "action": "block", "words": ["a"], "report_only": True})).for_surface("query")
    assert quiet is not None
    assert (quiet.holds_back, quiet.checks_output) == (False, True)
    assert redactions(scan(quiet.input_rules, "a b a")) == []
    assert count_by_rule(scan(quiet.input_rules, "a b a")) == {"a": 2}


def test_two_rules_of_a_policy_need_two_names() -> None:
    rule = {"name": "a", "action": "flag", "words": ["a"]}
    with pytest.raises(InvalidRequest, match="name of its own"):
        Policy(document(rule, rule))


def test_a_stored_policy_is_read_as_it_was_written() -> None:
    given = msgspec.convert(example(), PolicyDocument)
    assert read_document(write_document(given)) == given
    assert [rule.name for rule in given.rules] == ["personal-data", "secrets", "code-names"]


async def test_a_policy_that_cannot_be_read_refuses_the_calls_of_its_tenant_only() -> None:
    policies = Policies()
    assert not policies.has(1)
    stored = write_document(document({"name": "a", "action": "block", "words": ["a"]}))
    policies.configure({1: "{", 2: stored, 3: '{"rules":[{"name":"a","action":"block"}]}'})
    for tenant_id in (1, 3):
        with pytest.raises(ModerationUnavailable):
            await policies.of(tenant_id, "query")
    kept = await policies.of(2, "query")
    assert kept is not None
    policies.configure({2: stored})
    assert await policies.of(2, "query") is kept, "an unchanged policy is not compiled again"
    assert await policies.of(1, "query") is None


def test_findings_that_overlap_are_replaced_as_one() -> None:
    policy = Policy(
        document(
            {"name": "a", "action": "redact", "pattern": "bcd"},
            {"name": "b", "action": "redact", "pattern": "cdef"},
        )
    ).for_surface("query")
    assert policy is not None
    assert redact_text(policy.input_rules, "abcdefg", lambda label, value: f"<{value}>") == "a<bcdef>g"


def test_json_is_changed_leaf_by_leaf_and_stays_valid() -> None:
    def hide(text: str) -> str:
        return text.replace("4111", "[X]").replace("ada", '"')

    changed = map_json('{"n": 4111, "ada": ["ada", true, null, 1.5]}', hide)
    assert changed == '{"n": "[X]", "\\"": ["\\"", true, null, 1.5]}'
    assert map_json('{ "kept":  1 }', hide) == '{ "kept":  1 }', "what does not change keeps its form"
    assert map_json("ada {", hide) == '" {'
    assert texts_in_json('{"a": "\\u0062", "c": [1]}') == ["a", "b", "c", "1"]


def test_more_findings_than_are_replaced_are_an_error() -> None:
    policy = Policy(document({"name": "a", "action": "redact", "pattern": "a"})).for_surface("query")
    assert policy is not None
    with pytest.raises(TooManyFindings):
        scan(policy.input_rules, "a " * 20_000)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({}, "exactly one of"),
        ({"words": ["a"], "pii": ["email"]}, "exactly one of"),
        ({"pattern": "(a"}, "not valid for RE2"),
        ({"pattern": "(?:a{1000}){1000}"}, "not valid for RE2"),
        ({"pattern": "a*"}, "empty text"),
        ({"words": [" "]}, "not blank"),
        ({"words": ["a"], "surfaces": ["nowhere"]}, "surfaces are among"),
        ({"action": "redact", "classifier": {"provider": "openai"}}, "cannot redact"),
        ({"classifier": {}}, "either a model or a provider"),
        ({"classifier": {"model": "m", "provider": "p"}}, "either a model or a provider"),
        ({"classifier": {"model": "m"}}, "service_account"),
    ],
)
async def test_a_rule_that_cannot_work_is_refused_by_name(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        await compile_policy(document({"name": "x", "action": "block"} | rule))
