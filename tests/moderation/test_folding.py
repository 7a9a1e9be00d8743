"""Words and personal data are found however they are disguised, at their places in the text."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollkeeper.moderation.documents import PolicyDocument
from tollkeeper.moderation.folding import DATA, PHRASES, WORDS
from tollkeeper.moderation.policy import Policy
from tollkeeper.moderation.scan import scan


def found(text: str, **rule: Any) -> list[str]:
    document = msgspec.convert({"rules": [{"name": "x", "action": "redact"} | rule]}, PolicyDocument)
    policy = Policy(document).for_surface("query")
    assert policy is not None
    return [text[one.start : one.end] for one in scan(policy.input_rules, text)]


DISGUISED = (
    "project heron",
    "Pro\u200bject\u00ad He\u2060ron",
    "Project\n\t Heron",
    "Project\u00a0Heron",
    "Project\u3000Heron",
    "Project \u200b \u200bHeron",
    "Рrоjесt Неrоn",  # Cyrillic
    "Ρrοject Ηerοn",  # Greek
    "Ｐｒｏｊｅｃｔ Ｈｅｒｏｎ",
    "𝐏𝐫𝐨𝐣𝐞𝐜𝐭 ⓗⓔⓡⓞⓝ",
    "P\u0337r\u0337o\u0337j\u0337e\u0337c\u0337t\u0337 H\u0337eron",
    "\u202eProject Heron",
)


@pytest.mark.parametrize("disguised", DISGUISED)
def test_a_disguised_phrase_is_found_at_its_place(disguised: str) -> None:
    text = f"About {disguised}, or Project Heronry."
    [one] = found(text, words=["Project Heron", "other words"])
    assert one == disguised.lstrip("\u202e")


def test_what_is_written_in_another_script_or_with_accents_is_another_word() -> None:
    assert found("Cafe\u0301, café, cafe", words=["café"]) == ["Cafe\u0301", "café"]
    assert found("schon schön scho\u0308n", words=["schon"]) == ["schon"]
    assert found("Проект «Цапля», проект", words=["проект"]) == ["Проект", "проект"]
    assert found("सं\u200dग and heron\u200dry", words=["heron"]) == []


def test_personal_data_is_found_within_what_is_not_seen() -> None:
    assert found("card 4111\u200b 1111 1111\u2060 1111.", pii=["card"]) == ["4111\u200b 1111 1111\u2060 1111"]
    assert found("card ４１１１ １１１１ １１１１ １１１１", pii=["card"]) == ["４１１１ １１１１ １１１１ １１１１"]
    assert found("to ann\u200b@exa\u00admple.com", pii=["email"]) == ["ann\u200b@exa\u00admple.com"]


TEXTS = st.text(st.sampled_from("ab é\n \u200b\u00ad\u0301\u0337АаＡ𝐏²ﬁ東"))


@given(TEXTS)
def test_each_place_of_what_is_read_is_a_place_in_the_text(text: str) -> None:
    for folder in (WORDS, PHRASES, DATA):
        reading = folder.read(text)
        end = 0
        for place, character in enumerate(reading.text):
            start, following = reading.span_of(place, place + 1)
            assert end <= start < following <= len(text)
            end = following
            assert character.isspace() == any(map(str.isspace, text[start:following])), (text, character)
