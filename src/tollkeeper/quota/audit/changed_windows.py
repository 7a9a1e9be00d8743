"""Replays the windows that have changed since they were last replayed, from where they were."""

from collections.abc import AsyncIterator

from sqlalchemy import text

from tollkeeper.database.engine import Database
from tollkeeper.quota.audit.cut import Cut
from tollkeeper.quota.audit.facts import NEW_WINDOW, Key, Values, WindowState
from tollkeeper.quota.audit.mark import Mark
from tollkeeper.quota.audit.problems import Fault, Problem
from tollkeeper.quota.audit.reading import read_values
from tollkeeper.quota.audit.replay import BEFORE_ALL, BEFORE_CARRY, EntryKey, Replay
from tollkeeper.quota.audit.report import AuditReport
from tollkeeper.quota.rules.carry import BALANCES, read_carry

_WINDOWS = text(
    "SELECT tenant_id, id, sequence, granted, settled, pending, forgiven, ends_ms,"
    " (SELECT reason FROM entries WHERE entries.tenant_id = windows.tenant_id AND window_id = windows.id"
    " AND month > :cut AND entries.sequence >= :first_sequence AND entries.sequence < 0"
    " ORDER BY entries.sequence LIMIT 1) AS carry FROM windows"
    " WHERE (tenant_id, id) > (:tenant_id, :window_id) ORDER BY tenant_id, id LIMIT :most"
)
_ENTRIES = text(
    "SELECT * FROM (SELECT tenant_id, window_id, sequence, month, source_id, kind, granted, settled, pending, forgiven,"
    " CASE WHEN sequence < 0 THEN reason END AS reason"
    " FROM entries WHERE tenant_id = :tenant_id AND window_id = :window_id AND sequence > :sequence"
    " AND month > :cut AND sequence >= :first_sequence ORDER BY sequence LIMIT :most) AS chunk UNION ALL"
    " SELECT tenant_id, id, sequence, NULL, NULL, NULL, granted, settled, pending, forgiven, NULL"
    " FROM windows WHERE tenant_id = :tenant_id AND id = :window_id"
)


class ChangedWindows:
    """Checks the windows behind a position. Their new entries are of the charges that are to be checked."""

    def __init__(
        self, database: Database, report: AuditReport, chunk: int, mark: Mark, position: Key, cut: Cut
    ) -> None:
        self._database = database
        self._report = report
        self._chunk = chunk
        self._mark = mark
        self._cut = cut
        self.position = position
        self._charges: set[tuple[int, str]] = set()
        self._replayed: dict[Key, WindowState] = {}

    async def check(self) -> AsyncIterator[None]:
        """Check the windows, a chunk at a time. Raises DatabaseUnavailable."""
        while rows := await self._read_windows():
            first, last = ((row[0], row[1]) for row in (rows[0], rows[-1]))
            known = self._mark.windows(first, last)
            for row in rows:
                tenant_id, window_id, *balances, ends_ms, carry = row
                key, stored = (tenant_id, window_id), WindowState(*balances)
                state = known.get(key, NEW_WINDOW)
                if stored.sequence > state.sequence:
                    if carry is None and self._cut.covers(ends_ms):
                        continue  # it ended, and is archived with all its entries
                    if carry is not None and state.sequence < read_carry((0, 0, 0, 0), carry).up_to:
                        state = NEW_WINDOW
                    async for _ in self._replay(EntryKey(*key, state.sequence or BEFORE_CARRY), state):
                        yield
                else:
                    self._report.add(_unchanged_problems(key, stored, state))
            self._report.windows += len(rows)
            self.position = last
            yield

    def take_found(self) -> tuple[dict[Key, WindowState], set[tuple[int, str]]]:
        """The windows that were replayed since the last time, and the charges of their new entries."""
        found = self._replayed, self._charges
        self._replayed, self._charges = {}, set()
        return found

    async def _read_windows(self) -> list[Values]:
        tenant_id, window_id = self.position
        values = {"tenant_id": tenant_id, "window_id": window_id, "most": self._chunk, **self._cut.values}
        return await read_values(self._database, _WINDOWS, **values)

    async def _replay(self, position: EntryKey, state: WindowState) -> AsyncIterator[None]:
        replay = Replay(position, state, charges_after="")
        is_last = False
        while not is_last:
            before = replay.entries
            place = replay.position._asdict()
            rows = await read_values(self._database, _ENTRIES, most=self._chunk, **place, **self._cut.values)
            self._report.add(replay.read(rows))
            replayed, charges = replay.take_found()
            self._replayed |= replayed
            self._charges |= charges
            self._report.entries += replay.entries - before
            is_last = replay.entries - before < self._chunk
            yield
        self._report.add(replay.finish())


FIRST_WINDOW: Key = BEFORE_ALL.tenant_id, BEFORE_ALL.window_id


def _unchanged_problems(key: Key, stored: WindowState, state: WindowState) -> list[Problem]:
    """What is wrong with a window that has no more entries than when it was replayed."""
    where = f"window {key[1]}"
    if stored.sequence < state.sequence:
        what = f"it was verified up to entry {state.sequence}, its row has {stored.sequence}"
        return [Problem(Fault.SEQUENCE, where, what)]
    if not stored.sequence:
        return [Problem(Fault.SEQUENCE, where, "it has no entries")]
    return [
        Problem(Fault.BALANCE, where, f"{name} is {now}, its verified entries add up to {total}")
        for name, now, total in zip(BALANCES, stored[1:5], state[1:5], strict=True)
        if now != total
    ]
