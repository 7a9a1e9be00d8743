"""The console: its page, its policy, and its assets in the coding that the client accepts."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tollkeeper.api import console
from tollkeeper.api.console import CACHE_FOREVER, NONCE, accepted_codings
from tollkeeper.app import create_app
from tollkeeper.clock import SystemClock
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.telemetry.logging import AccessLog

FIRST_LOAD_BYTES = 250 * 1024
"""The most that a browser loads before the first view, compressed."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a built console is looked for."""
    monkeypatch.setattr(console, "_INSTALLED", tmp_path / "none")
    monkeypatch.setattr(console, "_CHECKOUT", tmp_path)
    return tmp_path


@pytest.fixture
def built(folder: Path) -> Path:
    (folder / "index.html").write_text(f'<meta name="csp-nonce" content="{NONCE}">')
    assets = folder / "assets"
    assets.mkdir()
    for name, text in {
        "a.js": "plain",
        "a.js.br": "small",
        "a.js.gz": "larger",
        "b.css": "css",
        "c.map": "map",
    }.items():
        (assets / name).write_text(text)
    return folder


@pytest.fixture
def client() -> TestClient:
    """A client of an application that is made when the test asks for the client: after the console was built."""
    services: Any = nullcontext()
    throttle = Throttle(login="off", ai="off", clock=SystemClock())
    return TestClient(create_app(lambda: services, throttle, AccessLog("error"), ""))


@pytest.mark.usefixtures("built")
def test_the_address_with_a_slash_at_its_end_leads_to_the_page(client: TestClient) -> None:
    reply = client.get("/console/?lang=en", follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (307, "../console?lang=en")
    assert client.get("/console/").text.startswith("<meta")
    assert client.get("/").json()["console"] == "/console"


@pytest.mark.usefixtures("built")
def test_each_page_has_a_nonce_of_its_own_and_allows_scripts_of_this_server_only(client: TestClient) -> None:
    nonces = set()
    for _ in range(2):
        page = client.get("/console")
        assert page.status_code == 200
        (nonce,) = re.findall(r'content="([\w-]{20,})"', page.text)
        policy = page.headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", f"style-src-elem 'self' 'nonce-{nonce}'"} <= set(policy)
        assert "http" not in page.headers["Content-Security-Policy"]
        assert page.headers.get_list("Cache-Control") == ["no-store"]
        nonces.add(nonce)
    assert len(nonces) == 2


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("accepted", "coding", "text"),
    [
        ("gzip, deflate, br, zstd", "br", "small"),
        ("gzip;q=1.0, br;q=0", "gzip", "larger"),
        ("GZIP", "gzip", "larger"),
        ("br;q=0.0, gzip; q=0", None, "plain"),
        ("identity", None, "plain"),
    ],
)
def test_an_asset_is_sent_in_the_smallest_coding_that_is_accepted(
    client: TestClient, accepted: str, coding: str | None, text: str
) -> None:
    with client.stream("GET", "/console/assets/a.js", headers={"Accept-Encoding": accepted}) as response:
        assert b"".join(response.iter_raw()).decode() == text
    assert response.headers.get("Content-Encoding") == coding
    assert response.headers["Content-Type"].startswith("text/javascript")
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.headers.get_list("Cache-Control") == [CACHE_FOREVER]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("name", ["no.js", "c.map", "a.js.br", "..%2Findex.html", "%2e%2e/index.html", "a.js/b.css"])
def test_nothing_but_assets_is_sent(client: TestClient, name: str) -> None:
    refused = client.get(f"/console/assets/{name}")
    assert refused.status_code == 404
    assert refused.headers.get_list("Cache-Control") == ["no-store"]


def test_an_asset_that_a_new_build_has_replaced_is_not_found(built: Path, client: TestClient) -> None:
    (built / "assets" / "b.css").unlink()
    assert client.get("/console/assets/b.css").status_code == 404


@pytest.mark.usefixtures("folder")
def test_without_a_build_the_page_says_how_to_make_one(client: TestClient) -> None:
    page = client.get("/console")
    assert page.status_code == 404
    assert "make console" in page.text
    assert "script-src" not in page.headers["Content-Security-Policy"]


def test_unusual_headers_name_no_coding_twice() -> None:
    assert accepted_codings("") == {""}
    assert accepted_codings(" br ; q=0.5,,gzip;q=0.001, x;q=0.000") == {"br", "", "gzip"}


def test_the_first_load_is_small() -> None:
    bundle = console.read_bundle()
    if bundle is None:
        pytest.skip("the console was not built: make console")
    names = re.findall(r'(?:src|href)="console/assets/([^"]+)"', bundle.page)
    assert len(names) >= 3
    sizes = {name: bundle.assets[f"{name}.br"].stat().st_size for name in names}
    assert sum(sizes.values()) < FIRST_LOAD_BYTES, sizes
    assert not re.search("(?i)https?://|[\"'(]//", bundle.page)
