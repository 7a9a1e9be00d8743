"""Checks a deployment from outside, with the standard library only: health, login, calls, a stream, and exact costs.

    python3 scripts/check_deployment.py http://127.0.0.1:8000 member@example.com < PASSWORD

Makes a few small calls of the default model as this user, who makes no others meanwhile. Prints a line for each check,
and exits with 1 at the first that fails.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

CALLS = 8
"""More than there are nodes and workers, so that each is likely to make one."""
TIMEOUT_S = 60.0
MIB = 1024 * 1024


class Failed(Exception):
    """A check has failed."""


class Deployment:
    """The API at one URL, as one user."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._token = ""

    def check_health(self) -> str:
        status, body = self._send("/health/ready")
        _require(status == 200, f"/health/ready answers {status}: {body!r}")
        return f"{self._url} is ready"

    def log_in(self, user: str, password: str) -> str:
        status, body = self._send("/auth/login", {"username": user, "password": password})
        _require(status == 200, f"the login answers {status}: {body!r}")
        self._token = json.loads(body)["access_token"]
        return f"{user} is logged in"

    def check_costs(self) -> str:
        before, cost = self._used(), 0
        for number in range(CALLS):
            status, body = self._send("/ai/query", {"prompt": f"check {number}", "max_tokens": 50})
            _require(status == 200, f"a call answers {status}: {body!r}")
            cost += json.loads(body)["cost"]
        used = self._used() - before
        _require(used == cost, f"{CALLS} calls cost {cost}, but {used} were deducted")
        return f"{CALLS} calls cost {cost}, and exactly that was deducted"

    def check_stream(self) -> str:
        before = self._used()
        status, body = self._send("/ai/stream", {"prompt": "one two three four five", "max_tokens": 50})
        _require(status == 200, f"a stream answers {status}: {body!r}")
        events = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
        _require(events[-1:] == ["[DONE]"], f"a stream ends with {events[-1:]}")
        final, used = json.loads(events[-2]), self._used() - before
        _require(final["cost"] == used, f"a stream costs {final['cost']}, but {used} were deducted")
        return f"a stream arrives in {len(events) - 2} pieces, and costs {used}"

    def check_refusals(self) -> str:
        status, body = self._send("/ai/query", {"prompt": "x" * MIB})
        _require(status == 413, f"a body above 1 MiB is answered with {status}")
        _require(json.loads(body)["code"] == "body_too_large", f"a body above 1 MiB is answered with {body!r}")
        token, self._token = self._token, "no-token"
        status, _ = self._send("/ai/query", {"prompt": "x"})
        self._token = token
        _require(status == 401, f"a call without a valid token is answered with {status}")
        return "a large body and a call without a token are refused"

    def _used(self) -> int:
        """The tokens that were deducted from the user's own quota."""
        status, body = self._send("/me/quota")
        _require(status == 200, f"/me/quota answers {status}: {body!r}")
        return int(json.loads(body)["used"])

    def _send(self, path: str, document: Any = None) -> tuple[int, bytes]:
        """POST the document, or GET without one. Returns the status and the whole body."""
        data = None if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self._token}"} if self._token else {}
        )
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise Failed(complaint)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    url, user = arguments
    deployment = Deployment(url)
    try:
        print("ok:", deployment.check_health())
        print("ok:", deployment.log_in(user, sys.stdin.readline().rstrip("\n")))
        for check in (deployment.check_costs, deployment.check_stream, deployment.check_refusals):
            print("ok:", check())
    except (Failed, OSError) as error:
        print("failed:", error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
