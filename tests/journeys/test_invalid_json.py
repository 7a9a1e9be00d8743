"""Bodies that are not strict JSON, or JSON of another shape, are refused: not echoed, not charged, not sent upstream.

They are refused before the database is used, so one database is enough here.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from journeys.support.raw_http import RawResponse, exchange, request
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream

CANARY = "tell-nobody"


def _document(**fields: Any) -> bytes:
    return json.dumps({"prompt": CANARY} | fields).encode()


def _nested(levels: int) -> bytes:
    return b'{"prompt": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


NOT_JSON = {
    "empty": b"",
    "blank": b"   ",
    "garbage": b"\xff\xfe" + CANARY.encode(),
    "cut off": b'{"prompt": "tell-nobody',
    "two documents": _document() * 2,
    "a trailing comma": b'{"prompt": "tell-nobody",}',
    "a comment": b'{"prompt": "tell-nobody" /* hello */}',
    "single quotes": b"{'prompt': 'tell-nobody'}",
    "not UTF-8": b'{"prompt": "tell-nobody \xe9"}',
    "UTF-16": _document().decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + _document(),
    "an overlong encoding": b'{"prompt": "tell-nobody \xc0\xaf"}',
    "an encoded surrogate": b'{"prompt": "tell-nobody \xed\xa0\x80"}',
    "a control character": b'{"prompt": "tell-nobody \x01"}',
    "a raw NUL": b'{"prompt": "tell-nobody \x00"}',
    "an escaped NUL": rb'{"prompt": "tell-nobody \u0000"}',
    "an escaped NUL in a key": rb'{"prompt": "tell-nobody", "\u0000": 1}',
    "a lone high surrogate": rb'{"prompt": "tell-nobody \ud800"}',
    "a lone low surrogate": rb'{"prompt": "tell-nobody \udc00 x"}',
    "surrogates in the wrong order": rb'{"prompt": "tell-nobody \udc00\ud800"}',
    "a lone surrogate in a key": rb'{"prompt": "tell-nobody", "\ud800": 1}',
    "a lone surrogate in a list": rb'{"prompt": ["tell-nobody \ud800"]}',
    "NaN": b'{"prompt": "tell-nobody", "temperature": NaN}',
    "Infinity": b'{"prompt": "tell-nobody", "temperature": Infinity}',
    "-Infinity": b'{"prompt": "tell-nobody", "temperature": -Infinity}',
    "1e400": b'{"prompt": "tell-nobody", "temperature": 1e400}',
    "-1e400 deep down": b'{"prompt": [[[-1e400]]]}',
    "duplicate keys": b'{"prompt": "tell-nobody", "prompt": "twice"}',
    "duplicate keys, one escaped": rb'{"prompt": "tell-nobody", "\u0070rompt": "twice"}',
    "duplicate keys deep down": b'{"prompt": [{"a": 1, "a": 2}]}',
    "65 levels": _nested(65),
    "100,000 levels": _nested(100_000),
    "a million open brackets": b"[" * 1_000_000,
    "too many lists": b'{"prompt": "tell-nobody", "tools": [' + b"[]," * 50_000 + b"[]]}",
    "too many objects": b'{"prompt": "tell-nobody", "tools": [' + b"{}," * 50_000 + b"{}]}",
    "duplicate keys in a large body": b'{"prompt": "' + b"x: " * 30_000 + b'", "prompt": "twice"}',
    "a number of 5,000 digits": b'{"prompt": "tell-nobody", "max_tokens": ' + b"9" * 5_000 + b"}",
}

WRONG_SHAPE = {
    "a list": b"[]",
    "a text": b'"tell-nobody"',
    "null": b"null",
    "a number": b"1",
    "64 levels": _nested(64),
    "no prompt": b"{}",
    "prompt null": _document(prompt=None),
    "prompt empty": _document(prompt=""),
    "prompt a number": _document(prompt=7),
    "prompt a list": _document(prompt=[CANARY]),
    "prompt an object": _document(prompt={"text": CANARY}),
    "max_tokens true": _document(max_tokens=True),
    "max_tokens a text": _document(max_tokens="7"),
    "max_tokens a fraction": _document(max_tokens=7.5),
    "max_tokens 0": _document(max_tokens=0),
    "max_tokens negative": _document(max_tokens=-1),
    "max_tokens too large": _document(max_tokens=1_000_001),
    "max_tokens beyond 64 bits": _document(max_tokens=2**70),
    "temperature a text": _document(temperature="0.5"),
    "temperature true": _document(temperature=True),
    "temperature negative": _document(temperature=-0.1),
    "temperature too high": _document(temperature=2.1),
    "model empty": _document(model=""),
    "model a number": _document(model=4),
    "model with a blank": _document(model="gpt 4 tell-nobody"),
    "model with a line break": _document(model="gpt-4\n"),
    "model too long": _document(model="m" * 201),
    "system_prompt empty": _document(system_prompt=""),
    "system_prompt a list": _document(system_prompt=[]),
    "context_allocation 0": _document(context_allocation=0),
    "context_allocation negative": _document(context_allocation=-5),
    "context_allocation a text": _document(context_allocation="2000"),
    "context_allocation true": _document(context_allocation=True),
    "cache a number": _document(cache=1),
    "cache a text": _document(cache="true"),
    "evaluate a number": _document(evaluate=0),
    "session_id a number": _document(session_id=1),
    "session_id too long": _document(session_id="s" * 101),
    "session_id with a slash": _document(session_id="a/b"),
    "role": _document(role="operator"),
    "quota": _document(quota=10**9),
    "tenant_id": _document(tenant_id=1),
    "user_id": _document(user_id=1),
    "cost": _document(cost=0),
    "stream": _document(stream=True),
    "n": _document(n=100),
    "an unknown field with a telling name": _document(**{"tell-nobody": 1}),
    "a field in other letters": _document(Max_Tokens=5),
    "__proto__": _document(__proto__={}),
}

UNSUPPORTED_YET = {
    "evaluate": _document(evaluate=True),
}


@pytest.fixture
async def caller(shared_sqlite: Server, upstream: Upstream) -> AsyncIterator[ApiUser]:
    """A user. After the test, the user has no charge, and the upstream has received no request with CANARY."""
    requests_before = len(upstream.requests(CANARY))
    async with new_user(shared_sqlite) as user:
        yield user
        assert await user.charges() == []
        quota = await user.quota()
        assert (quota["used"], quota["reserved"]) == (0, 0)
    shared_sqlite.assert_no_traceback()
    assert len(upstream.requests(CANARY)) == requests_before


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_a_body_that_is_not_strict_json_is_refused(shared_sqlite: Server, caller: ApiUser, body: bytes) -> None:
    _assert_refused(await _post(shared_sqlite, caller, body), 400, "invalid_json")


@pytest.mark.parametrize("body", WRONG_SHAPE.values(), ids=WRONG_SHAPE.keys())
async def test_json_of_another_shape_is_refused(shared_sqlite: Server, caller: ApiUser, body: bytes) -> None:
    _assert_refused(await _post(shared_sqlite, caller, body), 422, "invalid_request")


@pytest.mark.parametrize("body", UNSUPPORTED_YET.values(), ids=UNSUPPORTED_YET.keys())
async def test_a_parameter_that_is_not_supported_yet_is_refused(
    shared_sqlite: Server, caller: ApiUser, body: bytes
) -> None:
    _assert_refused(await _post(shared_sqlite, caller, body), 400, "unsupported_parameter")


async def _post(server: Server, caller: ApiUser, body: bytes) -> RawResponse:
    return await exchange(server.port, request("POST", "/ai/query", body, caller.auth_headers))


def _assert_refused(raw: RawResponse, status: int, code: str) -> None:
    assert (raw.status, raw.problem["code"]) == (status, code), raw
    assert CANARY.encode() not in raw.body
    assert CANARY not in str(raw.headers)
    assert len(raw.body) < 1_000
