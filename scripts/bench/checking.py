"""Proof that the bench measured what it says: every call reached the upstream, and every call was charged exactly."""

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime

from bench.load import ask, http_request
from bench.population import TENANT_PERIOD, USER_PERIOD
from bench.processes import BenchError, clean_environment
from bench.targets import TOLLKEEPER, Lab, Target
from bench.work import Work

VERIFY_S = 60


async def check(lab: Lab, targets: Sequence[Target], started: datetime) -> list[str]:
    """What was checked, in sentences. Raises BenchError for the first thing that is wrong."""
    streams = sum(target.answered[Work.STREAMS] for target in targets)
    answered = sum(target.calls for target in targets) - streams, streams
    served = await lab.served()
    if served != answered:
        raise BenchError(f"Whole answers and streams: {answered} came, but the upstream served {served}.")
    said = [f"The upstream served {served[0]:,} whole answers and {served[1]:,} streams, as many as came."]
    for target in targets:
        if target.metered:
            said += [await _check_quota(target, started), _verify(target)]
    return said


async def _check_quota(target: Target, started: datetime) -> str:
    """The users' quotas together, and the tenants' together, show exactly what the calls cost."""
    if datetime.now(UTC).date() != started.date():
        return (
            f"{target.kind}: midnight (UTC) passed during the run and opened new windows; the quotas were not checked."
        )
    used_by_users = 0
    used_by_tenant: dict[str, int] = {}
    for user in target.users:
        shown = await ask(target.port, http_request("GET", "/me/quota", token=user.token))
        quotas = {quota["name"]: quota for quota in shown["quotas"]}
        if any(quota["reserved"] for quota in quotas.values()):
            raise BenchError(f"{target.kind}: {user.email} still has something reserved: {quotas}")
        used_by_users += quotas[f"user-{USER_PERIOD}"]["used"]
        used_by_tenant[user.tenant] = quotas[f"tenant-{TENANT_PERIOD}"]["used"]
    expected = target.cost
    if not used_by_users == sum(used_by_tenant.values()) == expected:
        raise BenchError(
            f"{target.kind}: {target.calls} calls cost {expected} tokens, but the quotas of the users show"
            f" {used_by_users} and those of the tenants {sum(used_by_tenant.values())}."
        )
    sums = " + ".join(f"{times:,} {work} × {work.cost}" for work, times in sorted(target.answered.items()))
    return f"{target.kind}: {sums} tokens = {expected:,}, exactly what its quotas show."


def _verify(target: Target) -> str:
    """`tollkeeper ledger verify`, beside the running server."""
    verified = _command(target, "ledger", "verify")
    if verified.returncode != 0:
        if _command(target, "ledger", "--help").returncode != 0:
            return f"{target.kind}: this version has no `tollkeeper ledger verify`."
        raise BenchError(f"{target.kind}: `tollkeeper ledger verify` fails:\n{verified.stdout}{verified.stderr}")
    return f"{target.kind}: `tollkeeper ledger verify` finds nothing wrong."


def _command(target: Target, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOLLKEEPER, *args],
        cwd=target.child.folder,
        env=clean_environment() | target.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=VERIFY_S,
        check=False,
    )
