"""What a stopping server could not book is kept in a file, and booked by the next start."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
from ledger_environment import LedgerEnvironment, open_ledger_environment

from support.factories import charge_id, make_store, make_terms
from tollkeeper.chat import Price, Usage
from tollkeeper.errors import DatabaseUnavailable, LedgerUnavailable
from tollkeeper.principal import Principal, Role
from tollkeeper.quota import queries
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Closing, Recover, Release, Settle
from tollkeeper.quota.spill import Spill

pytestmark = pytest.mark.stock_postgres


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[LedgerEnvironment]:
    async with open_ledger_environment(database_url) as made:
        yield made


def files(folder: Path, suffix: str = "*") -> list[Path]:
    return sorted(folder.glob(f"unbooked-*.{suffix}"))


class Recording(Ledger):
    """A ledger that books nothing."""

    def __init__(self) -> None:
        self.booked: list[Closing] = []

    def book(self, operation: Closing) -> asyncio.Future[None]:
        self.booked.append(operation)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


async def no_tenant(charge_id: str) -> int | None:
    """For files of this version, which name the tenants."""
    raise AssertionError(charge_id)


def fields_of(operation: Closing) -> list[object]:
    names = [field.name for field in fields(operation) if field.name != "store_response"]
    return [type(operation), *(getattr(operation, name) for name in names)]


async def test_every_field_of_an_operation_is_kept_in_a_private_file(tmp_path: Path) -> None:
    price = Price(2_500_000, 1_250_000, 10_000_000, 3_000_000)
    operations: list[Closing] = [
        Settle("chg_1", 3, Usage(7, 30, 3, 2, 1), Basis.PROVIDER, "provider_error"),
        Settle("chg_2", 3, Usage(7, 30), Basis.UNKNOWN),
        Release("chg_3", 3, "caller_gone"),
        Recover(
            "chg_4", Principal(7, 3, Role.OPERATOR, 2, "key_1"), make_terms(price=price), 90, Usage(1, 2), Basis.COUNTED
        ),
    ]
    spill, ledger = Spill(tmp_path / "new"), Recording()
    spill.write(operations)
    [path] = files(spill.folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await Spill(spill.folder).book(ledger, no_tenant)
    assert list(map(fields_of, ledger.booked)) == list(map(fields_of, operations))
    assert (files(spill.folder), spill.lost) == ([], 0)


async def test_what_a_stop_could_not_book_is_booked_once(
    env: LedgerEnvironment, database_url: str, tmp_path: Path
) -> None:
    one, two = (env.ledger.reservation(env.caller, make_terms()) for _ in range(2))
    await one.__aenter__()
    await two.__aenter__()
    one.set_usage(Usage(7, 30))
    env.store.down = True
    leaving = [
        asyncio.create_task(one.__aexit__(None, None, None)),
        asyncio.create_task(two.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)),
    ]
    await asyncio.sleep(0)
    env.stopped = True
    spill = Spill(tmp_path)

    def keep_twice(unbooked: Sequence[Closing]) -> None:
        for _ in range(2):
            spill.write(unbooked)

    await env.ledger.stop(drain_seconds=0.02, keep_unbooked=keep_twice)
    await asyncio.gather(*leaving, return_exceptions=True)
    next_ledger = Ledger(make_store(database_url, env.clock), lease_seconds=60)
    next_ledger.start()
    await spill.book(next_ledger, no_tenant)
    await next_ledger.stop()
    charges = await env.charges()
    assert [(charges[call.charge_id].basis, charges[call.charge_id].cost_tokens) for call in (one, two)] == [
        ("provider", 37),
        ("unknown", 10),
    ]
    assert files(tmp_path) == []


async def test_workers_that_start_together_book_the_same_files(tmp_path: Path) -> None:
    spill, ledger = Spill(tmp_path), Recording()
    for _ in range(2):
        spill.write([Settle(charge_id("one"), 1, Usage(1, 1), Basis.PROVIDER)])
    (tmp_path / "unbooked-0.jsonl").write_text("{")
    await asyncio.gather(*(spill.book(ledger, no_tenant) for _ in range(3)))
    assert (len(files(tmp_path, "rejected")), files(tmp_path, "jsonl")) == (1, [])
    assert len(ledger.booked) >= 2


async def test_calls_that_end_after_the_stop_end_at_once_and_are_kept(env: LedgerEnvironment) -> None:
    reported, cancelled = (env.ledger.reservation(env.caller, make_terms()) for _ in range(2))
    await reported.__aenter__()
    await cancelled.__aenter__()
    reported.set_usage(Usage(7, 30))
    kept: list[Closing] = []
    env.stopped = True
    await env.ledger.stop(keep_unbooked=kept.extend)
    assert kept == []
    await reported.__aexit__(None, None, None)
    await cancelled.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
    with pytest.raises(LedgerUnavailable):
        await env.ledger.reservation(env.caller, make_terms()).__aenter__()
    assert [(one.charge_id, one.usage) for one in kept if isinstance(one, Settle)] == [
        (reported.charge_id, Usage(7, 30)),
        (cancelled.charge_id, Usage(10, 0)),
    ]
    assert len(kept) == 2


async def test_what_cannot_be_booked_is_kept(env: LedgerEnvironment, tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    spill.write([Settle(charge_id("unknown"), env.caller.tenant_id, Usage(1, 1), Basis.PROVIDER)])
    (tmp_path / "unbooked-0.jsonl").write_text("{")
    await spill.book(env.ledger, no_tenant)
    assert (len(files(tmp_path, "rejected")), files(tmp_path, "jsonl")) == (2, [])


async def test_a_file_of_an_older_version_without_tenants_is_booked(env: LedgerEnvironment, tmp_path: Path) -> None:
    settled, released = [await env.ledger.reservation(env.caller, make_terms()).__aenter__() for _ in range(2)]
    lines = [
        {
            "type": "settle",
            "charge_id": settled.charge_id,
            "usage": [7, 30, 0, 0, 0],
            "basis": "provider",
            "error": None,
        },
        {"type": "release", "charge_id": released.charge_id, "error": "caller_gone"},
    ]
    path = tmp_path / "unbooked-1.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    await Spill(tmp_path).book(env.ledger, partial(queries.tenant_of, env.database))
    charges = await env.charges()
    assert (charges[settled.charge_id].cost_tokens, charges[released.charge_id].state) == (37, "released")
    assert files(tmp_path) == []


async def test_a_file_without_tenants_waits_for_the_next_start_in_an_outage(
    env: LedgerEnvironment, tmp_path: Path
) -> None:
    async def unavailable(charge_id: str) -> int | None:
        raise DatabaseUnavailable

    path = tmp_path / "unbooked-1.jsonl"
    path.write_text(json.dumps({"type": "release", "charge_id": charge_id("a"), "error": None}) + "\n")
    await Spill(tmp_path).book(env.ledger, unavailable)
    assert files(tmp_path) == [path]
    await Spill(tmp_path).book(env.ledger, partial(queries.tenant_of, env.database))
    assert files(tmp_path) == [], "there is no such charge, so nothing is held"


@pytest.mark.parametrize("unknown", [charge_id("unknown"), "chg_" + "f" * 32, "chg_1", ""])
async def test_the_tenant_of_what_is_no_charge_is_not_found(env: LedgerEnvironment, unknown: str) -> None:
    assert await queries.tenant_of(env.database, unknown) is None


def test_what_cannot_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spill = Spill(tmp_path / "file" / "folder")
    spill.write([Release("chg_1", 3), Release("chg_2", 3)])
    assert spill.lost == 2
