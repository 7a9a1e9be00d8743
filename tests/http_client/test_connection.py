"""A response is read as h11 reads it, however it is split; what h11 refuses or reads otherwise is no response."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http_client.in_memory import Outcome, outcome_of, receive
from http_client.responses import damaged, responses, splits
from support.depth import examples
from tollkeeper.providers.http import response_head
from tollkeeper.providers.http.base import MAX_INTERIM_RESPONSES
from tollkeeper.providers.http.body import MAX_LINE_BYTES, MAX_TRAILER_BYTES

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def read_with_h11(sent: bytes) -> tuple[int, bytes] | None:
    """The status and the body of the first response in `sent`, after which the connection ends; None if h11 refuses."""
    connection = h11.Connection(h11.CLIENT)
    for event in (h11.Request(method="POST", target="/", headers=[("Host", "x")]), h11.EndOfMessage()):
        connection.send(event)
    connection.receive_data(sent)
    status, body, ended = 0, b"", False
    try:
        while True:
            match connection.next_event():
                case h11.Response(status_code=status):
                    pass
                case h11.Data(data=data):
                    body += bytes(data)
                case h11.EndOfMessage():
                    return status, body
                case h11.NEED_DATA if not ended:
                    ended = True
                    connection.receive_data(b"")
                case h11.NEED_DATA | h11.PAUSED | h11.ConnectionClosed():
                    return None
    except h11.RemoteProtocolError:
        return None


@given(st.data())
@settings(max_examples=examples(500), deadline=None)
def test_a_valid_response_is_read_as_h11_reads_it_however_it_is_split(data: st.DataObject) -> None:
    sent, status, body = data.draw(responses())
    outcome = outcome_of(data.draw(splits(sent)))
    assert outcome[:3] == (status, body, "")
    assert read_with_h11(sent) == (status, body)


@given(st.data())
@settings(max_examples=examples(1_500), deadline=None)
def test_a_damaged_response_is_read_as_h11_reads_it_or_refused(data: st.DataObject) -> None:
    sent = data.draw(damaged())
    outcome = outcome_of(data.draw(splits(sent)))
    if outcome.kind == "":
        assert read_with_h11(sent) == (outcome.status, outcome.body)


@given(st.data())
@settings(max_examples=examples(500), deadline=None)
def test_how_a_damaged_response_is_split_does_not_change_what_is_read(data: st.DataObject) -> None:
    sent = data.draw(damaged())
    assert outcome_of([sent]) == outcome_of(data.draw(splits(sent)))


@given(st.data(), st.binary(min_size=1, max_size=20))
@settings(max_examples=examples(400), deadline=None)
def test_a_connection_with_bytes_left_is_not_kept(data: st.DataObject, left: bytes) -> None:
    sent, _, _ = data.draw(responses())
    assert not outcome_of(data.draw(splits(sent + left))).kept


@given(st.data())
@settings(max_examples=examples(400), deadline=None)
def test_a_response_that_is_cut_is_an_error_unless_the_connection_ends_it(data: st.DataObject) -> None:
    sent, _, body = data.draw(responses())
    cut = data.draw(st.integers(0, len(sent) - 1))
    outcome = outcome_of([sent[:cut]] if cut else [])
    has_length = b"Content-Length: " in sent or b"Transfer-Encoding: " in sent
    assert outcome.kind == "ConnectionLost" or (not has_length and body.startswith(outcome.body))


KEPT = {
    "sized": OK + b"Content-Length: 2\r\n\r\nok",
    "without a body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "chunked": CHUNKED + b"2\r\nok\r\n0\r\n\r\n",
    "after an interim response": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok",
    "an error": b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno",
}


@pytest.mark.parametrize("sent", KEPT.values(), ids=KEPT.keys())
async def test_a_connection_is_kept_after_a_whole_response(sent: bytes) -> None:
    assert (await receive([sent], ends=False)).kept


NOT_KEPT = {
    "close": OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok",
    "close among others": OK + b"Connection: x\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "a line end too much": OK + b"Content-Length: 2\r\n\r\nok\r\n",
    "a line end too much after chunks": CHUNKED + b"2\r\nok\r\n0\r\n\r\n\r\n",
    "a body that may not be": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    "another response": OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 3\r\n\r\nbad",
}


@pytest.mark.parametrize("sent", NOT_KEPT.values(), ids=NOT_KEPT.keys())
async def test_a_connection_that_ends_or_has_sent_more_is_not_kept(sent: bytes) -> None:
    outcome = await receive([sent], ends=False)
    assert (outcome.kind, outcome.kept) == ("", False)
    assert outcome[:2] == ((204, b"") if b" 204 " in sent else (200, b"ok"))


async def test_a_status_without_a_body_that_announces_one_ends_the_connection() -> None:
    """What comes later could be taken for the next response."""
    assert not (await receive([b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n"], ends=False)).kept


REFUSED = {
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "chunks twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a compressed transfer": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer": OK + b"Transfer-Encoding: identity\r\n\r\nok",
    "a negative length": OK + b"Content-Length: -2\r\n\r\nok",
    "a length with a sign": OK + b"Content-Length: +2\r\n\r\nok",
    "a list of lengths": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "a huge length": OK + b"Content-Length: 99999999999999999999\r\n\r\nok",
    "line feeds only": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "a line feed before the body": OK + b"Content-Length: 2\r\n\nok",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/0.9": b"hello",
    "a space before the colon": OK + b"Content-Length : 2\r\n\r\nok",
    "a NUL in a header": OK + b"X: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    "a folded header": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "an empty line before the head": b"\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok",
    "a size with a sign": CHUNKED + b"+2\r\nok\r\n0\r\n\r\n",
    "a size with an underscore": CHUNKED + b"0_2\r\nok\r\n0\r\n\r\n",
    "a size with a prefix": CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n",
    "no size": CHUNKED + b"\r\nok\r\n0\r\n\r\n",
    "a size with a line feed": CHUNKED + b"2\nok\r\n0\r\n\r\n",
    "a chunk that is longer than its size": CHUNKED + b"2\r\nokk\r\n0\r\n\r\n",
    "a chunk with a line feed": CHUNKED + b"2\r\nok\n0\r\n\r\n",
    "a huge size": CHUNKED + b"f" * 16 + b"\r\nok",
    "a size without an end": CHUNKED + b"2;" + b"x" * MAX_LINE_BYTES,
    "too many trailers": CHUNKED + b"0\r\n" + b"X: y\r\n" * (MAX_TRAILER_BYTES // 6 + 1),
    "too large a head": OK + b"X: y\r\n" * 20 + b"X: " + b"y" * response_head.MAX_HEAD_BYTES,
    "too many headers": OK + b"X: y\r\n" * (response_head.MAX_FIELDS + 1) + b"\r\n",
    "too many interim responses": b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM_RESPONSES + 1),
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_not_certain_is_refused_at_once_and_the_connection_is_closed(sent: bytes) -> None:
    for blocks in ([sent], [sent[place : place + 1] for place in range(len(sent))]):
        outcome = await receive(blocks, ends=False)
        assert (outcome.kind, outcome.kept) == ("MalformedResponse", False)


async def test_bytes_that_no_request_has_asked_for_end_the_connection() -> None:
    outcome = await receive([OK + b"Content-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\n"], ends=False)
    assert outcome == Outcome(200, b"ok", "", kept=False)


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    assert (await receive([OK + b"\r\n", b"o", b"k"]))[:3] == (200, b"ok", "")
    assert (await receive([OK + b"\r\n", b"o", b"k"], ends=False)).kind == "TimeoutError"
