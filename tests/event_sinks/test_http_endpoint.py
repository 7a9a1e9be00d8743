"""The HTTP sink sends batches to the operator's endpoint, through the guard for what goes out."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydantic import SecretStr

from tollkeeper.event_sinks.http_endpoint import HttpEndpoint
from tollkeeper.event_sinks.sink import LinesRejected, SinkFailed
from tollkeeper.outbound.client import OutboundClient

LINES = [b'{"a": 1}\n', b'{"a": 2}\n']


class Receiver(HTTPServer):
    """Answers each request with `status`, and keeps its headers and body."""

    status = 204
    location: str | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[dict[str, str], bytes]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/events"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        if self.server.location is not None:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server
        server.shutdown()


@pytest.fixture
def make_endpoint() -> Iterator[Callable[..., HttpEndpoint]]:
    made: list[HttpEndpoint] = []

    def make(url: str, networks: str = "127.0.0.0/8", token: str | None = None) -> HttpEndpoint:
        client = OutboundClient(networks, total_s=3)
        made.append(HttpEndpoint(client, url, SecretStr(token) if token is not None else None))
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.close()


def test_a_batch_is_one_request_with_the_token(receiver: Receiver, make_endpoint: Callable[..., HttpEndpoint]) -> None:
    endpoint = make_endpoint(receiver.url, token="of-the-collector")
    endpoint.write(LINES)
    endpoint.write(LINES[:1])
    [(headers, body), (_, second)] = receiver.received
    assert (body, second) == (b"".join(LINES), LINES[0])
    assert (headers["content-type"], headers["authorization"]) == ("application/x-ndjson", "Bearer of-the-collector")


@pytest.mark.parametrize("status", [300, 301, 401, 403, 404, 408, 429, 500, 503])
def test_other_statuses_are_failures_that_may_pass(
    receiver: Receiver, make_endpoint: Callable[..., HttpEndpoint], status: int
) -> None:
    receiver.status = status
    with pytest.raises(SinkFailed, match=str(status)):
        make_endpoint(receiver.url).write(LINES)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_batch_that_is_refused_for_its_content_is_rejected(
    receiver: Receiver, make_endpoint: Callable[..., HttpEndpoint], status: int
) -> None:
    receiver.status = status
    with pytest.raises(LinesRejected, match=str(status)):
        make_endpoint(receiver.url).write(LINES)


def test_a_redirect_is_not_followed(receiver: Receiver, make_endpoint: Callable[..., HttpEndpoint]) -> None:
    receiver.status, receiver.location = 307, receiver.url
    with pytest.raises(SinkFailed):
        make_endpoint(receiver.url).write(LINES)
    assert len(receiver.received) == 1


@pytest.mark.parametrize("networks", ["", "10.0.0.0/8"])
def test_only_public_addresses_and_those_of_the_setting_are_reached(
    receiver: Receiver, make_endpoint: Callable[..., HttpEndpoint], networks: str
) -> None:
    with pytest.raises(SinkFailed, match="private network"):
        make_endpoint(receiver.url, networks).write(LINES)
    assert receiver.received == []


def test_an_endpoint_that_does_not_listen_is_a_failure(make_endpoint: Callable[..., HttpEndpoint]) -> None:
    with pytest.raises(SinkFailed, match="cannot be reached"):
        make_endpoint("http://127.0.0.1:1/").write(LINES)
