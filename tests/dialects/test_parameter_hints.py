"""The error of a refused parameter says what can be sent instead."""

import pytest

from tollkeeper.dialects import chat, completions, embeddings, messages, responses
from tollkeeper.dialects.parameter_hints import HINTS
from tollkeeper.dialects.parameters import REFUSE, Only, Rule, unsupported

TABLES = {
    "chat": chat.PARAMETERS,
    "completions": completions.PARAMETERS,
    "embeddings": embeddings.PARAMETERS,
    "messages": messages.PARAMETERS,
    "responses": responses.PARAMETERS,
}


@pytest.mark.parametrize("rules", TABLES.values(), ids=TABLES)
def test_every_parameter_that_can_be_refused_has_a_hint(rules: dict[str, Rule]) -> None:
    refused = {name for name, rule in rules.items() if rule is REFUSE or isinstance(rule, Only)}
    assert refused <= HINTS.keys()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("store", "Send store: false. Nothing is kept at the provider."),
        ("previous_response_id", "Send the earlier items in input: nothing is kept at the provider."),
        ("n", "Send n: 1, and a request for each further answer."),
    ],
)
def test_the_error_names_the_parameter_and_what_to_send(name: str, hint: str) -> None:
    error = unsupported(name)
    assert error.detail == f"{name} is not supported here, or not with this value. {hint}"
    assert error.parameter == name


def test_an_unknown_name_has_no_hint() -> None:
    assert unsupported("x" * 70).detail == "This parameter is not supported here, or not with this value."


def test_each_hint_is_a_sentence() -> None:
    assert all(hint[0].isupper() and hint.endswith(".") for hint in HINTS.values())
