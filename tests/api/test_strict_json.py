"""JSON that parsers read differently, or that takes long to parse, is refused; all other JSON is accepted."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.depth import examples
from tollkeeper.api import strict_json
from tollkeeper.api.strict_json import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_ESCAPES,
    MAX_FIELDS,
    MAX_NON_ASCII_BYTES,
    MAX_SLOW_NUMBERS,
    MAX_STRUCTURE_BYTES,
    MAX_VALUES,
    SMALL_BODY_BYTES,
    parse,
)
from tollkeeper.errors import InvalidJson

INVALID = {
    "nothing": b"",
    "not JSON": b"{prompt: 1}",
    "two documents": b"{} {}",
    "a trailing comma": b'{"a": 1,}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "infinity by overflow": b'{"a": 1e400}',
    "negative infinity by overflow": b"[-1e999]",
    "an integer of 5,000 digits": b"[" + b"9" * 5000 + b"]",
    "a lone high surrogate": b'{"a": "\\ud800"}',
    "a lone low surrogate in a list": b'{"a": ["\\udc00"]}',
    "a lone surrogate as a key": b'{"\\ud800": 1}',
    "a lone surrogate deeper": b'{"a": {"b": [["\\ud83d"]]}}',
    "NUL": b'{"a": "x\\u0000y"}',
    "NUL in a list": b'{"a": [["\\u0000"]]}',
    "NUL as a key": b'{"\\u0000": 1}',
    "raw NUL": b'{"a": "\0"}',
    "duplicate keys": b'{"a": 1, "a": 1}',
    "duplicate keys spelled differently": b'{"a": 1, "\\u0061": 1}',
    "duplicate keys deeper": b'{"a": [{"b": 1, "b": 2}]}',
    "not UTF-8": b'{"a": "\xff"}',
    "a surrogate as UTF-8": b'{"a": "\xed\xa0\x80"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "too deep lists": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "too deep objects": b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    "far too deep": b"[" * 300_000,
    "unmatched closing brackets": b"[" + b"]" * SMALL_BODY_BYTES,
    "brackets in the wrong order": b"][" * SMALL_BODY_BYTES,
    "mismatched brackets": b"[" + b"[}," * SMALL_BODY_BYTES + b"[]]",
    "NUL after backslashes": b'{"a": "' + b"\\\\" * SMALL_BODY_BYTES + b'\\u0000"}',
}

VALID = {
    "an object": b'{"prompt": "Hello", "temperature": 0.5, "cache": false, "model": null}',
    "pairs of surrogates": b'{"a": "\\ud83d\\ude00"}',
    "text that looks like an escape": b'{"a": "\\\\u0000 \\\\ud800"}',
    "the maximum depth": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "many brackets in text": b'{"a": "' + b"[{" * 5000 + b'"}',
    "quotes and brackets in text": b'{"a": "' + b'\\"[' * 500 + b'\\\\"}',
    "long text that looks like an escape": b'{"a": "' + b"\\\\" * SMALL_BODY_BYTES + b'u0000"}',
    "many digits in text": b'{"a": "' + b"9" * SMALL_BODY_BYTES + b'"}',
    "the maximum number of digits": b"[" + b" " * SMALL_BODY_BYTES + b"0." + b"3" * (MAX_DIGITS - 1) + b"]",
    "the maximum number of values": b"[" + b"1," * (MAX_VALUES - 2) + b"1]",
    "the maximum depth, repeatedly": b"[" + (b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b",") * 100 + b"1]",
    "many slow numbers": b"[" + b"5e-324," * (MAX_SLOW_NUMBERS - 1) + b"1e5]",
    "numbers in text": b'["' + b"5e-324 1.234567890123456 " * MAX_SLOW_NUMBERS + b'"]',
    "many numbers of 15 digits": b"[" + b"0.1234567890123," * 50_000 + b"123456789012345]",
    "a text of many escapes": b'["' + b"\\n" * (MAX_ESCAPES - 1) + b'"]',
    "a text of many characters beyond ASCII": b'["' + "да ".encode() * (MAX_NON_ASCII_BYTES // 4) + b'"]',
    "many fields": b"{" + b",".join(b'"%d:": ":"' % number for number in range(MAX_FIELDS // 2)) + b"}",
    "many shallow objects": b"[" + b"{}," * 5000 + b"{}]",
    "the same key in two objects": b'[{"a": 1}, {"a": 1}]',
    "the largest float": b"[1.7976931348623157e308]",
}

TOO_MANY = {
    "denormal numbers": b"[" + b"5e-324," * MAX_SLOW_NUMBERS + b"1e5]",
    "long numbers": b'{"a": [' + b"1.234567890123456," * MAX_SLOW_NUMBERS + b"-9007199254740993.5]}",
    "digits in a small body": b"[1." + b"3" * MAX_DIGITS + b"]",
    "fields": b"{" + b",".join(b'"%d":1' % number for number in range(MAX_FIELDS + 1)) + b"}",
    "escapes": b'["' + b"\\n" * (MAX_ESCAPES + 1) + b'"]',
    "characters beyond ASCII": b'["' + "да ".encode() * (MAX_NON_ASCII_BYTES // 4 + 1) + b'"]',
    "bytes of white space": b" " * (MAX_STRUCTURE_BYTES + 1) + b"1",
    "values": b"[" + b"1," * MAX_VALUES + b"1]",
    "empty lists": b"[" + b"[]," * (MAX_VALUES // 2) + b"[]]",
    "lists without commas": b"[]" * (MAX_VALUES + 1),
    "unclosed lists": b"[" * (MAX_VALUES + 1),
    "objects": b"[" + b"{}," * MAX_CONTAINERS + b"{}]",
    "texts": b"[" + b'"",' * (2 * MAX_VALUES) + b'""]',
    "digits": b"[" + b" " * SMALL_BODY_BYTES + b"9" * MAX_DIGITS + b"]",
    "digits after other numbers": b"[" + (b"9" * (MAX_DIGITS - 1) + b",") * 20 + b"0." + b"9" * MAX_DIGITS + b"]",
}


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID.keys())
def test_invalid_or_ambiguous_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse(body)


@pytest.mark.parametrize("body", VALID.values(), ids=VALID.keys())
def test_unambiguous_json_is_accepted(body: bytes) -> None:
    parse(body)


@pytest.mark.parametrize("body", TOO_MANY.values(), ids=TOO_MANY.keys())
def test_json_with_too_many_values_or_digits_is_refused_before_it_is_parsed(body: bytes) -> None:
    with pytest.raises(InvalidJson, match="too many"):
        parse(body)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=examples(200), deadline=None)
@given(documents, st.booleans())
def test_every_plain_document_is_accepted_with_or_without_escapes(document: object, ascii_only: bool) -> None:
    parse(json.dumps(document, ensure_ascii=ascii_only).encode())


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_are_valid_json(body: bytes) -> None:
    try:
        parse(body)
    except InvalidJson:
        return
    json.loads(body.decode())


pieces = st.lists(st.sampled_from(['"', "\\", "\\\\", '\\"', "a", ",", ":", "[", "{", "}", "]", " "]), max_size=40)


@settings(max_examples=examples(500), deadline=None)
@given(pieces, st.integers(1, 7))
def test_what_is_outside_of_strings_does_not_depend_on_the_slices(pieces: list[str], slice_bytes: int) -> None:
    text = "".join(pieces).encode()
    expected, inside, escaped = bytearray(), False, False
    for byte in text:
        if inside and (escaped or byte == ord("\\")):
            escaped = not escaped
        elif byte == ord('"'):
            inside = not inside
        elif not inside:
            expected.append(byte)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "SLICE_BYTES", slice_bytes)
        assert strict_json.structure(text) == bytes(expected) + (b'"' if inside else b"")


@pytest.mark.parametrize("kind", ["dictionary", "list of dictionaries"])
def test_a_colon_in_a_text_is_no_field(kind: str) -> None:
    document: object = {"a: b": "c: d", "e": ":"}
    parse(json.dumps(document if kind == "dictionary" else [document]).encode())
