"""One process of the bank test: concurrent calls, a failing provider, cancelled callers, and a log of the results.

Run as `python bank_worker.py PLAN`, where PLAN is JSON (see `Plan`). It prints "ready", and begins when it reads a line
from stdin. Each line of the log is written before the next step, so it survives a SIGKILL. The exit code is 0 if no
result contradicted an earlier one.
"""

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.factories import make_store
from tollkeeper.chat import Price, Usage
from tollkeeper.errors import (
    LedgerBusy,
    LedgerUnavailable,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExceeded,
    QuotaHeld,
)
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.maintenance import Maintenance
from tollkeeper.quota.reservation import Reservation
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Operation, Release, Settle, Terms

METER = Meter(1_500, Price(2_500_000, 1_250_000, 10_000_000))
AT_ONCE = 50
MAX_TRIES = 40
TAGS: list[tuple[str, ...]] = [(), ("run=a",), ("run=b",), ("cost-centre=42",), ("cost-centre=42", "run=a")]


class Plan(NamedTuple):
    """What one process does. `users` are (user id, tenant id, id of a key).

    After `answers` calls the provider stops answering: later calls are in flight until the process ends.
    """

    name: str
    database_url: str
    log: str
    calls: int
    answers: int
    seed: int
    lease_s: float
    sweep_s: float
    users: list[tuple[int, int, str]]


class Worker:
    def __init__(self, plan: Plan, ledger: Ledger, log: TextIO) -> None:
        self._plan = plan
        self._ledger = ledger
        self._log = log
        self._random = random.Random(plan.seed)
        self._sent = 0
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def work(self) -> None:
        calls = [asyncio.create_task(self._call()) for _ in range(self._plan.calls)]
        cancelled = self._random.sample(calls, len(calls) // 6)
        cancelling = [asyncio.create_task(self._cancel_later(call)) for call in cancelled]
        await asyncio.gather(*calls, *cancelling)

    async def _cancel_later(self, call: "asyncio.Task[None]") -> None:
        """Cancel a call at a random time: before it starts, in the queue, in the call, in the settle, or after it."""
        await asyncio.sleep(self._random.uniform(0, 2))
        call.cancel()

    async def _call(self) -> None:
        reservation = None
        try:
            async with self._slots:
                user_id, tenant_id, key_id = self._random.choice(self._plan.users)
                key, group = self._random.choice([(None, None), (key_id, None), (None, "team"), (key_id, "team")])
                talk = self._random.choice([None, "talk", "walk"])
                tags = self._random.choice(
                    [(), ("run=a",), ("run=b",), ("cost-centre=42",), ("cost-centre=42", "run=a")]
                )
                caller = Principal(user_id, tenant_id, Role.MEMBER, 0, key, group=group, conversation=talk, tags=tags)
                for _ in range(MAX_TRIES):
                    wanted = self._random.randint(5, 60)
                    least = self._random.choice([wanted, 5])
                    size = self._random.randint(1, 20)
                    terms = Terms(self._plan.name, "echo", "echo", METER, size, wanted, least)
                    reservation = self._ledger.reservation(caller, terms)
                    try:
                        await self._call_provider(reservation)
                        break
                    except QuotaExceeded:
                        return
                    except (QuotaHeld, LedgerBusy, LedgerUnavailable):
                        await asyncio.sleep(self._random.uniform(0.01, 0.1))
                    except ProviderError:
                        break
                await self._check_repeats(reservation)
        except asyncio.CancelledError:
            if reservation is not None:
                self._write_log("gone", reservation)

    async def _call_provider(self, reservation: Reservation) -> None:
        """Call the provider, which answers, or fails with or without billing."""
        async with reservation:
            self._write_log("sent", reservation)
            self._sent += 1
            if self._sent > self._plan.answers:
                await asyncio.Event().wait()
            await asyncio.sleep(self._random.uniform(0, 0.15))
            usage = Usage(reservation.terms.input_bound, self._random.randint(0, reservation.granted_output))
            luck = self._random.random()
            if luck < 0.1:
                raise ProviderUnavailable
            if luck < 0.2:
                raise ProviderTimeout
            self._write_log("served", reservation, tokens=usage.total_tokens)
            reservation.set_usage(usage, Basis.COUNTED if luck < 0.3 else Basis.PROVIDER)

    async def _check_repeats(self, reservation: Reservation | None) -> None:
        """Settling or releasing once more answers as the first time, and charges nothing."""
        closed = reservation.closed if reservation is not None else None
        if reservation is None or closed is None:
            return
        self._write_log("ended", reservation, cost=closed.cost_tokens, money=closed.cost_micro_usd, basis=closed.basis)
        if self._random.random() < 0.3:
            released = closed.basis is Basis.NONE
            again: Operation = (
                Release(closed.charge_id, reservation.tenant_id)
                if released
                else Settle(closed.charge_id, reservation.tenant_id, Usage(9, 9), closed.basis)
            )
            answer = await self._ledger._journal.submit(again)
            assert answer[:6] == closed[:6], f"{closed} became {answer}"

    def _write_log(self, what: str, reservation: Reservation, **more: Any) -> None:
        print(json.dumps({"what": what, "charge": reservation.charge_id, **more}), file=self._log, flush=True)


async def main(plan: Plan) -> None:
    ledger = Ledger(make_store(plan.database_url), lease_seconds=plan.lease_s)
    maintenance = Maintenance(ledger, lease_seconds=plan.lease_s, sweep_seconds=plan.sweep_s)
    ledger.start()
    maintenance.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    with Path(plan.log).open("a", encoding="utf-8") as log:
        try:
            await Worker(plan, ledger, log).work()
        finally:
            await maintenance.stop()
            await ledger.stop()


if __name__ == "__main__":
    asyncio.run(main(Plan(**json.loads(sys.argv[1]))))
