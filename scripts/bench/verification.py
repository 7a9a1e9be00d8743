"""Checks after a run: every call reached the upstream, and every call was charged exactly."""

import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bench.load import http_request, request_json
from bench.population import TENANT_PERIOD, USER_PERIOD
from bench.processes import BenchError, clean_environment
from bench.targets import TOLLKEEPER, Target, Testbed

LEDGER_VERIFY_TIMEOUT_S = 60


async def verify_run(
    testbed: Testbed, targets: Sequence[Target], served_before: Mapping[str, int], started: datetime
) -> list[str]:
    """Returns one sentence per check. Raises BenchError for the first check that fails.

    `served_before` is what the upstream had served, when the run `started`, to calls that the targets do not count.
    """
    completed = {"json": sum(len(target.counted_costs) for target in targets), "streams": 0, "bursts": 0}
    for target in targets:
        for workload, calls in target.completed.items():
            completed["bursts" if workload.is_burst else "streams" if workload.is_stream else "json"] += calls
    served_now = await testbed.served_by_upstream()
    served = {name: served_now[name] - served_before[name] for name in completed}
    if served != completed:
        raise BenchError(f"Responses: {completed} received, but {served} served by the upstream.")
    checks = [
        f"The upstream served {served['json']:,} JSON responses, {served['streams']:,} paced streams and"
        f" {served['bursts']:,} bursts, as many as received."
    ]
    for target in targets:
        if target.is_metered:
            checks += [await _verify_quotas(target, started), _verify_ledger(target)]
    return checks


async def _verify_quotas(target: Target, started: datetime) -> str:
    """Compare the usage of all users' quotas, and of all tenants' quotas, with the cost of the calls."""
    if datetime.now(UTC).date() != started.date():
        return f"{target.kind}: new windows opened at midnight (UTC) during the run. The quotas were not checked."
    used_by_users = 0
    used_by_tenant: dict[str, int] = {}
    for user in target.users:
        response = await request_json(target.port, http_request("GET", "/me/quota", token=user.token))
        quotas = {quota["name"]: quota for quota in response["quotas"]}
        if any(quota["reserved"] for quota in quotas.values()):
            raise BenchError(f"{target.kind}: {user.email} has tokens reserved after the last call: {quotas}")
        used_by_users += quotas[f"user-{USER_PERIOD}"]["used"]
        used_by_tenant[user.tenant] = quotas[f"tenant-{TENANT_PERIOD}"]["used"]
    expected = target.expected_cost_tokens
    if not used_by_users == sum(used_by_tenant.values()) == expected:
        raise BenchError(
            f"{target.kind}: the calls cost {expected} tokens, but the users' quotas show {used_by_users} and the"
            f" tenants' {sum(used_by_tenant.values())}."
        )
    terms = [f"{count:,} {workload} × {workload.cost_tokens}" for workload, count in sorted(target.completed.items())]
    terms += [f"{cost} counted without a usage" for cost in target.counted_costs]
    return f"{target.kind}: {' + '.join(terms)} tokens = {expected:,}, equal to the usage in its quotas."


def _verify_ledger(target: Target) -> str:
    """Run `tollkeeper ledger verify` beside the running server."""
    verified = _run_tollkeeper(target, "ledger", "verify")
    if verified.returncode != 0:
        if _run_tollkeeper(target, "ledger", "--help").returncode != 0:
            return f"{target.kind}: this version has no `tollkeeper ledger verify`."
        raise BenchError(f"{target.kind}: `tollkeeper ledger verify` fails:\n{verified.stdout}{verified.stderr}")
    return f"{target.kind}: `tollkeeper ledger verify` finds no problems."


def _run_tollkeeper(target: Target, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOLLKEEPER, *arguments],
        cwd=target.child.folder,
        env=clean_environment() | target.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LEDGER_VERIFY_TIMEOUT_S,
        check=False,
    )
