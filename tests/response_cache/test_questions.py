"""Any difference that can matter gives another key; the order of fields gives the same."""

import json
import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.depth import examples
from tollkeeper.response_cache.questions import Owner, Question, canonical_body, key_of, keys_of_parts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.fixed_dictionaries(
    {"model": st.text(), "messages": st.lists(st.fixed_dictionaries({"role": st.text(), "content": JSON}), max_size=3)},
    optional={"temperature": st.floats(0, 2), "tools": JSON, "seed": st.integers()},
)
COUNTS = st.none() | st.integers(0, 10**6)


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


QUESTIONS = st.builds(
    Question,
    owner=st.builds(Owner, tenant_id=st.integers(1, 3), user_id=st.none() | st.integers(1, 3)),
    provider=st.text(max_size=3),
    model=st.text(max_size=3),
    upstream=st.text(max_size=3),
    with_tenant_key=st.booleans(),
    form=st.text(max_size=3),
    moderation=st.text(max_size=3),
    limits=st.tuples(COUNTS, COUNTS, COUNTS),
    headers=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    body=st.builds(encode, BODIES),
)


def comparable(question: Question) -> tuple[Any, ...]:
    """All of a question; of numbers, also their kind: 1 and 1.0, or true, are not the same to each provider."""
    described = [json.dumps(one, sort_keys=True) for one in (question.headers, json.loads(question.body))]
    return (*question[:-2], *described)


def shuffled(value: Any) -> Any:
    """The same JSON value with the fields of its objects in another order."""
    if isinstance(value, dict):
        names = list(value)
        random.Random(len(names)).shuffle(names)
        return {name: shuffled(value[name]) for name in reversed(names)}
    return [shuffled(one) for one in value] if isinstance(value, list) else value


@settings(max_examples=examples(300))
@given(QUESTIONS, QUESTIONS)
def test_two_questions_have_the_same_key_only_if_all_is_the_same(one: Question, other: Question) -> None:
    assert (key_of(one) == key_of(other)) is (comparable(one) == comparable(other))


CHANGES: tuple[Callable[[Question], Question], ...] = (
    lambda one: one._replace(owner=one.owner._replace(tenant_id=one.owner.tenant_id + 1)),
    lambda one: one._replace(owner=one.owner._replace(user_id=(one.owner.user_id or 0) + 1)),
    lambda one: one._replace(provider=one.provider + "x"),
    lambda one: one._replace(provider=one.provider + one.model, model=""),
    lambda one: one._replace(model=one.model + "x"),
    lambda one: one._replace(upstream=one.upstream + "x"),
    lambda one: one._replace(with_tenant_key=not one.with_tenant_key),
    lambda one: one._replace(form=one.form + "x"),
    lambda one: one._replace(moderation=one.moderation + "x"),
    lambda one: one._replace(limits=((one.limits[0] or 0) + 1, *one.limits[1:])),
    lambda one: one._replace(headers={**one.headers, "anthropic-beta": "x"}),
    lambda one: one._replace(body=encode(json.loads(one.body) | {"top_p": 0.5})),
    lambda one: one._replace(body=encode(json.loads(one.body) | {"messages": [*json.loads(one.body)["messages"], {}]})),
    lambda one: one._replace(body=encode({"system": "x"} | json.loads(one.body))),
)


@settings(max_examples=examples(100))
@given(QUESTIONS)
def test_each_difference_gives_another_key(question: Question) -> None:
    changed = [change(question) for change in CHANGES]
    different = [one for one in changed if comparable(one) != comparable(question)]
    assert len(different) >= len(CHANGES) - 1
    assert key_of(question) not in {key_of(one) for one in different}


@settings(max_examples=examples(100))
@given(BODIES)
def test_the_order_of_fields_and_how_the_answer_is_delivered_do_not_matter(body: dict[str, Any]) -> None:
    other = shuffled(body) | {"stream": True, "stream_options": {"include_usage": True}}
    assert canonical_body(encode(other)) == canonical_body(json.dumps(body, indent=2).encode())


def test_the_order_of_a_schemas_properties_matters_since_the_model_writes_in_that_order() -> None:
    orders: tuple[dict[str, Any], ...] = ({"reason": {}, "verdict": {}}, {"verdict": {}, "reason": {}})
    one, other = ({"tools": [{"parameters": {"type": "object", "properties": order}}]} for order in orders)
    assert canonical_body(encode(one)) != canonical_body(encode(other))


def test_what_cannot_be_parsed_counts_byte_by_byte() -> None:
    assert canonical_body(b'{"a": 1') == b'{"a": 1'
    assert canonical_body(b"[" * 100_000) == b"[" * 100_000
    deep = b'{"a": ' + b"[" * 600 + b"]" * 600 + b"}"
    assert canonical_body(deep) == deep
    assert canonical_body(b'{"seed": 18446744073709551617}') != canonical_body(b'{"seed": 18446744073709551616}')


PARTS = st.lists(st.text(max_size=4) | st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4)


@settings(max_examples=examples(100))
@given(QUESTIONS, PARTS)
def test_a_part_has_the_same_key_among_any_others_and_another_one_for_each_difference(
    question: Question, parts: list[Any]
) -> None:
    encoded = [encode(part) for part in parts]
    keys = keys_of_parts(question, encoded)
    assert keys == tuple(keys_of_parts(question, [one])[0] for one in encoded)
    assert len(set(keys)) == len(set(encoded))
    assert key_of(question) not in keys
    changed = [change(question) for change in CHANGES]
    different = [one for one in changed if comparable(one) != comparable(question)]
    assert len(different) >= len(CHANGES) - 1
    assert set(keys).isdisjoint(key for one in different for key in keys_of_parts(one, encoded))


def test_each_field_of_a_question_is_among_the_differences_that_are_tried() -> None:
    """So that a field which is added to a question is tried, too."""
    question = Question(Owner(1, 1), "p", "m", "u", False, "f", "", (None, None, None), {}, b'{"messages": []}')
    changed = {
        name
        for change in CHANGES
        for name, before, after in zip(Question._fields, question, change(question), strict=True)
        if before != after
    }
    assert changed == set(Question._fields)
