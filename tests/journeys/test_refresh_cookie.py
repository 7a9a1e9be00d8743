"""The refresh token in a cookie, for the console: no script can read it, and no other site can use it."""

from http.cookies import SimpleCookie

import pytest

from journeys.support.logins import Person, new_person
from journeys.support.server import Server
from journeys.support.users import Reply

CONSOLE = {"X-Tollkeeper-Console": "1"}


def cookie_in(reply: Reply) -> SimpleCookie:
    return SimpleCookie(reply.headers["Set-Cookie"])


async def with_cookie(person: Person, path: str, cookie: str, headers: dict[str, str]) -> Reply:
    return await person.send("POST", path, headers={"Cookie": f"tollkeeper_refresh={cookie}"} | headers)


async def test_the_cookie_replaces_the_token_in_the_body(server: Server) -> None:
    own = CONSOLE | {"Origin": server.url}
    async with new_person(server) as person:
        reply = await person.try_login(cookie=True)
        assert reply.body.keys() == {"access_token", "token_type", "expires_in"}
        cookie = cookie_in(reply)["tollkeeper_refresh"]
        assert (cookie["httponly"], cookie["secure"], cookie["samesite"], cookie["path"]) == (
            True,
            "",
            "strict",
            "/auth",
        )
        assert 0 < int(cookie["max-age"]) <= 720 * 3600
        refreshed = await with_cookie(person, "/auth/refresh", cookie.value, own)
        assert refreshed.status == 200
        assert "refresh_token" not in refreshed.body
        newest = cookie_in(refreshed)["tollkeeper_refresh"].value
        assert newest != cookie.value
        ended = await with_cookie(person, "/auth/logout", newest, own)
        assert ended.status == 204
        assert cookie_in(ended)["tollkeeper_refresh"].value == ""
        assert not await person.is_accepted(refreshed.body["access_token"])


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/logout"])
async def test_the_cookie_is_refused_from_another_site_and_without_the_consoles_header(
    server: Server, path: str
) -> None:
    async with new_person(server) as person:
        cookie = cookie_in(await person.try_login(cookie=True))["tollkeeper_refresh"].value
        for headers in (
            {},
            CONSOLE,
            {"Origin": server.url},
            CONSOLE | {"Origin": "https://evil.example.com"},
            CONSOLE | {"Origin": "null"},
            {"X-Tollkeeper-Console": "0", "Origin": server.url},
        ):
            refused = await with_cookie(person, path, cookie, headers)
            assert refused.code == "forbidden", headers
        own = CONSOLE | {"Origin": server.url}
        assert (await with_cookie(person, "/auth/refresh", cookie, own)).status == 200


async def test_the_cookie_is_secure_on_any_name_but_a_loopback_one(server: Server) -> None:
    async with new_person(server) as person:
        document = {"username": person.email, "password": "correct horse battery staple", "cookie": True}
        for headers, is_secure in (
            ({"Host": "ai.example.com"}, True),
            ({"Host": f"localhost:{server.port}"}, False),
            ({"Host": f"[::1]:{server.port}"}, False),
            ({"X-Forwarded-Proto": "https"}, True),
        ):
            reply = await person.send("POST", "/auth/login", document, headers=headers)
            assert bool(cookie_in(reply)["tollkeeper_refresh"]["secure"]) == is_secure, headers
