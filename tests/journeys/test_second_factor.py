"""The second factor over HTTP: set up, log in with it, lose it, and be obliged to have it."""

import time
from collections.abc import Callable
from urllib.parse import urlencode

import pyotp

from journeys.support.admins import new_admin
from journeys.support.logins import Person, new_person
from journeys.support.server import Server
from journeys.support.users import PASSWORD
from tollkeeper.principal import Role

PERIOD_S = 30


def code(secret: str, periods: int = 0) -> str:
    return pyotp.TOTP(secret).at(int(time.time()) + periods * PERIOD_S)


async def enrol(person: Person, token: str) -> tuple[str, list[str]]:
    """Set up a second factor with the present code, so that the next one logs in. Returns secret and recovery codes."""
    made = await person.send("POST", "/auth/totp", token=token)
    assert made.status == 201, made
    secret = made.body["secret"]
    assert pyotp.parse_uri(made.body["uri"]).secret == secret
    confirmed = await person.send("POST", "/auth/totp/confirm", {"code": code(secret)}, token=token)
    assert confirmed.status == 200, confirmed
    return secret, confirmed.body["recovery_codes"]


async def test_a_login_with_a_second_factor_needs_a_code_of_it(server: Server) -> None:
    async with new_person(server) as person:
        token = (await person.log_in())["access_token"]
        assert (await person.send("DELETE", "/auth/totp", {"code": "000000"}, token=token)).status == 404
        assert (await person.send("GET", "/me", token=token)).body["second_factor"] is False
        secret, recovery_codes = await enrol(person, token)
        assert (await person.send("GET", "/me", token=token)).body["second_factor"] is True
        assert (await person.send("POST", "/auth/totp", token=token)).status == 422
        missing = await person.try_login()
        assert (missing.status, missing.code) == (401, "totp_required")
        assert (await person.try_login(password="wrong")).code == "invalid_credentials"
        assert (await person.try_login(password="wrong", totp=code(secret))).code == "invalid_credentials"
        assert (await person.try_login(totp="aaaaaa")).code == "invalid_totp_code"
        used = code(secret, 1)
        tokens = await person.log_in(totp=used)
        assert (await person.try_login(totp=used)).code == "invalid_totp_code"
        form = urlencode({"username": person.email, "password": PASSWORD, "totp": recovery_codes[0]})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with person.http.post("/auth/login", data=form, headers=headers) as response:
            assert response.status == 200
        assert (await person.try_login(totp=recovery_codes[0])).code == "invalid_totp_code"
        methods = [session["method"] for session in await person.sessions(tokens["access_token"])]
        assert methods == ["recovery", "totp", "password"]
        removal = ("DELETE", "/auth/totp", {"code": recovery_codes[1]})
        assert (await person.send(*removal, token=tokens["access_token"])).status == 204
        await person.log_in()


async def test_an_administrator_resets_a_lost_second_factor(server: Server) -> None:
    async with new_person(server) as person, new_admin(server, tenant_id=person.principal.tenant_id) as admin:
        await enrol(person, (await person.log_in())["access_token"])
        path = f"/admin/users/{person.principal.user_id}/totp"
        assert (await admin.send("DELETE", path)).status == 204
        assert (await admin.send("DELETE", path)).status == 404
        await person.log_in()
        lines = (await admin.get("/admin/audit")).body["data"]
        assert [line["action"] for line in lines][:4] == ["login", "totp.reset", "totp.confirm", "totp.start"]


async def test_guesses_are_limited_per_account(server: Server) -> None:
    async with new_person(server) as person:
        _, recovery_codes = await enrol(person, (await person.log_in())["access_token"])
        statuses = [(await person.try_login(totp="aaaaaa")).status for _ in range(6)]
        assert statuses == [401] * 5 + [429]
        assert (await person.try_login(totp=recovery_codes[0])).status == 429


async def test_an_operator_without_a_required_second_factor_can_only_set_one_up(
    make_server: Callable[..., Server], sqlite_url: str
) -> None:
    server = make_server(sqlite_url, OPENAI_API_KEY="", TOLLKEEPER_REQUIRE_OPERATOR_TOTP="true").start()
    async with new_person(server, Role.OPERATOR) as operator, new_admin(server) as admin:
        token = (await operator.log_in())["access_token"]
        refused = await operator.send("GET", "/admin/tenants", token=token)
        assert (refused.status, refused.code) == (403, "totp_enrolment_required")
        assert (await admin.get("/admin/tenants")).status == 200
        await enrol(operator, token)
        assert (await operator.send("GET", "/admin/tenants", token=token)).status == 200
    server.stop()
