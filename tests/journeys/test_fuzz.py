"""Random bodies at /ai/query and /auth/login never cause a 5xx status."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journeys.support.raw_http import exchange, request
from journeys.support.server import Server
from journeys.support.users import new_user
from support.depth import examples

pytestmark = pytest.mark.exhaustive

FIELDS = ("prompt", "model", "system_prompt", "max_tokens", "temperature", "session_id", "context_allocation")
QUERY_FIELDS = st.sampled_from((*FIELDS, "cache", "evaluate", "retrieve", "role"))
LOGIN_FIELDS = st.sampled_from(("username", "password", "grant_type", "scope", "x"))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=40)
    | st.sampled_from(["", "gpt-4o-mini", "\ud800", "\0", 0, -1, 1, 2**63, 1e308])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
KINDS = st.sampled_from(
    ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain", "a/b;c"]
)
BOUNDED = settings(
    max_examples=examples(300),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _documents(names: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    return st.dictionaries(names, VALUES, max_size=5).map(lambda document: json.dumps(document).encode())


def test_no_body_causes_a_server_error_of_a_query(shared_echo_server: Server) -> None:
    token = asyncio.run(_new_token(shared_echo_server))

    @BOUNDED
    @given(body=st.binary(max_size=300) | _documents(QUERY_FIELDS))
    def query(body: bytes) -> None:
        data = request("POST", "/ai/query", body, {"Authorization": f"Bearer {token}"})
        assert asyncio.run(exchange(shared_echo_server.port, data)).status < 500

    query()
    shared_echo_server.assert_no_traceback()


def test_no_body_causes_a_server_error_of_a_login(shared_sqlite: Server, shared_postgres: Server) -> None:
    @BOUNDED
    @given(body=st.binary(max_size=300) | _documents(LOGIN_FIELDS), kind=KINDS)
    def log_in(body: bytes, kind: str) -> None:
        for server in (shared_sqlite, shared_postgres):
            data = request("POST", "/auth/login", body, {"Content-Type": kind})
            assert asyncio.run(exchange(server.port, data)).status < 500

    log_in()
    shared_sqlite.assert_no_traceback()
    shared_postgres.assert_no_traceback()


async def _new_token(server: Server) -> str:
    async with new_user(server) as user:
        return user.token
