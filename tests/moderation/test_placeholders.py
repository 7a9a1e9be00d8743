"""Placeholders: random, one for each value, and put back exactly."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.moderation.placeholders import Placeholders, possible_begin


def test_a_value_has_one_placeholder_in_a_call_and_another_one_in_the_next() -> None:
    one, other = Placeholders(), Placeholders()
    token = one.token_for("EMAIL", "a@b.example")
    assert token == one.token_for("EMAIL", "a@b.example")
    assert token != one.token_for("EMAIL", "c@d.example")
    assert token != other.token_for("EMAIL", "a@b.example")
    assert bool(Placeholders()) is False


def test_only_placeholders_of_the_call_are_put_back() -> None:
    placeholders = Placeholders()
    token = placeholders.token_for("IBAN", "DE89")
    assert placeholders.restore(f"<{token}> [IBAN_00000000] [IBAN]") == "<DE89> [IBAN_00000000] [IBAN]"


def test_adopted_placeholders_stand_for_the_values_of_this_call() -> None:
    first, second = Placeholders(), Placeholders()
    tokens = [first.token_for("EMAIL", value) for value in ("a", "b")]
    for value in ("a", "b"):
        second.token_for("EMAIL", value)
    second.adopt(first.tokens)
    assert second.restore(" ".join(tokens)) == "a b"


@given(st.text(max_size=20))
def test_what_is_put_back_in_json_is_escaped(value: str) -> None:
    placeholders = Placeholders()
    token = placeholders.token_for("REDACTED", value.encode("utf-8", "replace").decode())
    restored = placeholders.restore(json.dumps({"to": f"x {token} y"}), in_json=True)
    assert json.loads(restored) == {"to": f"x {value.encode('utf-8', 'replace').decode()} y"}


@given(st.integers(0, 40), st.sampled_from(["EMAIL", "IBAN", "REDACTED", "SECRET"]))
def test_a_text_that_is_cut_anywhere_in_a_placeholder_waits_for_the_rest(cut: int, label: str) -> None:
    placeholders = Placeholders()
    token = placeholders.token_for(label, "value")
    text = f"before {token} after"
    cut = min(cut, len(text))
    begin = possible_begin(text[:cut])
    assert begin == (7 if 7 < cut < 7 + len(token) else cut)
