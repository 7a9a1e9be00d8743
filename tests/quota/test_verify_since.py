"""A verification continues from the mark of the one before, and after an interruption from where it was."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import TextClause
from verified_ledger import TERMS, VerifiedLedger, open_verified

from tollkeeper.chat import Usage
from tollkeeper.database.engine import Database
from tollkeeper.errors import ConfigurationError
from tollkeeper.quota.audit import windows
from tollkeeper.quota.audit.mark import Mark
from tollkeeper.quota.audit.problems import Fault
from tollkeeper.quota.audit.reading import read_values
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.audit.verify import verify

pytestmark = pytest.mark.stock_postgres

QUOTAS = 3
"""Of the caller: a charge has as many reserves, and as many settles."""


class Interrupted(Exception):
    """Ends a verification before it is done."""


@pytest.fixture
async def verified(database_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(database_url) as made:
        yield made


@pytest.fixture
async def sqlite_verified(sqlite_url: str) -> AsyncIterator[VerifiedLedger]:
    async with open_verified(sqlite_url) as made:
        yield made


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


async def verify_since(
    verified: VerifiedLedger, mark: Path, chunk: int = 5, progress: Callable[[AuditReport], None] = lambda _: None
) -> AuditReport:
    return await verify(verified.database, now_ms=verified.clock.ms, chunk=chunk, progress=progress, mark_file=mark)


def counts_of(report: AuditReport) -> tuple[int, int, int]:
    return report.windows, report.entries, report.charges


async def test_only_what_was_written_since_is_read(verified: VerifiedLedger, mark: Path) -> None:
    await verified.spend(Usage(5, 20))
    waiting = verified.ledger.reservation(verified.caller, TERMS)
    await waiting.__aenter__()
    first, whole = await verify_since(verified, mark), await verified.verify()
    assert (first.since, first.clean) == ("", True)
    assert counts_of(first) == counts_of(whole)
    nothing = await verify_since(verified, mark)
    assert (nothing.since != "", nothing.clean, nothing.entries, nothing.charges) == (True, True, 0, 0)
    assert nothing.windows == QUOTAS
    waiting.set_usage(Usage(1, 1))
    await waiting.__aexit__(None, None, None)
    await verified.spend(Usage(7, 30))
    later = await verify_since(verified, mark)
    assert (later.clean, later.entries, later.charges) == (True, QUOTAS * (1 + 2), 2)
    assert counts_of(await verify_since(verified, mark))[1:] == (0, 0)
    assert mark.stat().st_mode & 0o077 == 0
    assert [path.name for path in mark.parent.glob("mark*")] == ["mark"]


async def test_a_charge_that_was_open_is_checked_when_it_has_ended(verified: VerifiedLedger, mark: Path) -> None:
    waiting = verified.ledger.reservation(verified.caller, TERMS)
    await waiting.__aenter__()
    assert (await verify_since(verified, mark)).clean
    waiting.set_usage(Usage(1, 1))
    await waiting.__aexit__(None, None, None)
    await verified.execute(f"UPDATE charges SET cost_tokens = cost_tokens + 1 WHERE id = '{waiting.charge_id}'")
    for _ in range(2):
        report = await verify_since(verified, mark)
        assert {problem.fault for problem in report.problems} == {Fault.CHARGE, Fault.COST}, "a mark does not pass it"
    await verified.execute(f"UPDATE charges SET cost_tokens = cost_tokens - 1 WHERE id = '{waiting.charge_id}'")
    assert (await verify_since(verified, mark)).clean


async def test_a_charge_that_was_made_during_the_first_verification_is_checked_by_the_next(
    verified: VerifiedLedger, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its entries may be replayed by the first one, which leaves the charge itself."""
    made: list[str] = []

    async def spend_and_read(database: Database, statement: TextClause, **values: Any) -> Any:
        if not made:
            made.append(await verified.spend(Usage(1, 1)))
        return await read_values(database, statement, **values)

    monkeypatch.setattr(windows, "read_values", spend_and_read)
    first = await verify_since(verified, mark)
    assert (first.clean, first.charges) == (True, 0)
    assert first.entries == QUOTAS * (1 + 1 + 2)
    await verified.execute(f"UPDATE charges SET cost_tokens = cost_tokens + 1 WHERE id = '{made[0]}'")
    second = await verify_since(verified, mark)
    assert {problem.fault for problem in second.problems} == {Fault.CHARGE, Fault.COST}


CORRUPTIONS = {
    "a new entry is edited": (
        Fault.BALANCE,
        "UPDATE entries SET settled = settled + 1 WHERE {new} AND kind = 'settle'",
    ),
    "a new entry is deleted": (Fault.SEQUENCE, "DELETE FROM entries WHERE {new} AND kind = 'reserve'"),
    "a new charge is deleted": (Fault.ENTRY, "DELETE FROM charges WHERE id = '{charge}'"),
    "the balance of a window without new entries is edited": (
        Fault.BALANCE,
        "UPDATE windows SET granted = granted + 1",
    ),
    "a window is set back": (Fault.SEQUENCE, "UPDATE windows SET sequence = 2"),
    "a window has no entries": (
        Fault.SEQUENCE,
        "INSERT INTO windows (tenant_id, quota_id, starts_ms, ends_ms, granted)"
        " SELECT tenant_id, id, -1, 0, 0 FROM quotas",
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_corruptions_since_the_mark_are_found(
    sqlite_verified: VerifiedLedger, mark: Path, corruption: str
) -> None:
    await sqlite_verified.spend(Usage(5, 20))
    assert (await verify_since(sqlite_verified, mark)).clean
    charge = await sqlite_verified.spend(Usage(7, 30))
    fault, statement = CORRUPTIONS[corruption]
    await sqlite_verified.execute(statement.format(new=f"source_id = '{charge}'", charge=charge))
    report = await verify_since(sqlite_verified, mark)
    assert fault in {problem.fault for problem in report.problems}
    assert counts_of(report)[2] <= 1


@pytest.mark.parametrize("chunk", [1, 13])
@pytest.mark.parametrize("has_mark", [False, True])
async def test_an_interrupted_verification_continues(
    verified: VerifiedLedger, mark: Path, chunk: int, has_mark: bool
) -> None:
    for number in range(8):
        await verified.spend(Usage(number, 20))
    if has_mark:
        await verify_since(verified, mark)
        for number in range(4):
            await verified.spend(Usage(number, 30))
    untouched = mark.parent / "untouched"
    if has_mark:
        untouched.write_bytes(mark.read_bytes())
    expected = counts_of(await verify_since(verified, untouched, chunk=5_000))
    assert expected[2] == (4 if has_mark else 8)
    interruptions = 0
    while True:
        seen = 0

        def interrupt_the_second(_: AuditReport) -> None:
            nonlocal seen
            seen += 1
            if seen == 2:
                raise Interrupted

        try:
            report = await verify_since(verified, mark, chunk, interrupt_the_second)
        except Interrupted:
            interruptions += 1
            assert interruptions < 500
        else:
            break
    assert report.problems == []
    assert counts_of(report) == expected
    assert interruptions > 0
    assert counts_of(await verify_since(verified, mark))[1:] == (0, 0)


async def test_the_mark_of_another_ledger_is_refused(verified: VerifiedLedger, mark: Path) -> None:
    await verify_since(verified, mark)
    with closing(sqlite3.connect(mark)) as connection:
        connection.execute("UPDATE progress SET ledger = 'win_0'")
        connection.commit()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="is the mark of another ledger"):
            await verify_since(verified, mark)
    mark.unlink()
    assert (await verify_since(verified, mark)).since == ""


@pytest.mark.parametrize("content", [b"no database at all, but a text of some length", b""])
async def test_a_file_that_is_no_mark_is_refused_or_used(
    sqlite_verified: VerifiedLedger, mark: Path, content: bytes
) -> None:
    mark.write_bytes(content)
    if not content:
        assert (await verify_since(sqlite_verified, mark)).since == ""
        return
    with pytest.raises(ConfigurationError, match="cannot be used: it is not the mark of a verification"):
        await verify_since(sqlite_verified, mark)
    assert mark.read_bytes() == content
    mark.unlink()
    assert (await verify_since(sqlite_verified, mark)).since == ""


async def test_a_folder_that_is_not_there_is_reported(sqlite_verified: VerifiedLedger, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used"):
        await verify_since(sqlite_verified, tmp_path / "absent" / "mark")


async def test_two_verifications_at_once_with_one_file_are_refused_and_the_first_goes_on(
    sqlite_verified: VerifiedLedger, mark: Path
) -> None:
    await sqlite_verified.spend(Usage(5, 20))
    with closing(Mark.open(mark, "", "chg_1")):
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="is in use by another verification"):
                await verify_since(sqlite_verified, mark)
    assert (await verify_since(sqlite_verified, mark)).clean


async def test_a_full_disk_is_reported_and_what_was_saved_is_kept(
    sqlite_verified: VerifiedLedger, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        await sqlite_verified.spend(Usage(number, 20))
    full = 0

    def write_progress(self: Mark) -> None:
        nonlocal full
        full += 1
        if full > 2:
            raise sqlite3.OperationalError("database or disk is full")
        original(self)

    original = Mark._write_progress
    with monkeypatch.context() as patched:
        patched.setattr(Mark, "_write_progress", write_progress)
        with pytest.raises(ConfigurationError, match="cannot be written: database or disk is full"):
            await verify_since(sqlite_verified, mark)
    assert [path.name for path in mark.parent.glob("mark*")] == ["mark.part"]
    report = await verify_since(sqlite_verified, mark)
    assert counts_of(report) == counts_of(await sqlite_verified.verify())
