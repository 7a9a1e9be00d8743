"""Keeps what a stopping server could not book: in a file, which the next start books and deletes.

Files are never shared: each stop writes one of its own. To book one twice does no harm, since every operation of the
ledger has an id.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import assert_never

import msgspec
import structlog

from tollkeeper.chat import Usage
from tollkeeper.errors import DatabaseUnavailable
from tollkeeper.principal import Principal
from tollkeeper.private_files import create_private_file, create_private_folder, synchronize
from tollkeeper.quota.ledger import Ledger
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Closing, Recover, Release, Settle, Terms
from tollkeeper.quota.time_sorted_ids import new_id

BOOKING_WAIT_S = 10.0
"""How long a start waits for each file to be booked. A file that is not booked by then is booked at the next start."""

UNKNOWN_TENANT = 0
"""No tenant has this id. It stands in the files of older versions, which did not write the tenant of a charge."""

FindTenant = Callable[[str], Awaitable[int | None]]
"""Returns the tenant of a charge, by its id; None if there is no such charge. Raises DatabaseUnavailable."""

log = structlog.get_logger("tollkeeper.ledger")


class _Settle(msgspec.Struct, tag="settle"):
    charge_id: str
    usage: Usage
    basis: Basis
    error: str | None
    tenant_id: int = UNKNOWN_TENANT
    linked_id: str | None = None


class _Release(msgspec.Struct, tag="release"):
    charge_id: str
    error: str | None
    tenant_id: int = UNKNOWN_TENANT
    linked_id: str | None = None


class _Recover(msgspec.Struct, tag="recover"):
    charge_id: str
    caller: Principal
    terms: Terms
    granted_output: int
    usage: Usage
    basis: Basis


_Line = _Settle | _Release | _Recover
_decode = msgspec.json.Decoder(_Line).decode


class Spill:
    """The files of unbooked operations in one folder. `lost` counts the operations that could not be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost = 0

    def write(self, operations: Sequence[Closing]) -> None:
        """Write the operations to a new file, durably. Stored responses are not kept. Never raises."""
        path = self.folder / f"unbooked-{new_id('run')}.jsonl"
        unfinished = path.with_suffix(".tmp")
        lines = [msgspec.json.encode(_line_of(operation)).decode() + "\n" for operation in operations]
        try:
            create_private_folder(self.folder)
            create_private_file(unfinished, "".join(lines))
            synchronize(unfinished)
            unfinished.rename(path)
            synchronize(self.folder)
        except OSError as error:
            self.lost += len(lines)
            log.error("ledger.not_booked", charges=len(lines), reason=type(error).__name__)
        else:
            log.warning("ledger.spilled", charges=len(lines))

    async def book(self, ledger: Ledger, find_tenant: FindTenant) -> None:
        """Book what earlier processes have written, and delete the files.

        A file with an operation that the ledger refuses, or with a line that cannot be read, is kept as `.rejected`.
        Several workers may book the same file.
        """
        for path in sorted(self.folder.glob("unbooked-*.jsonl")):
            try:
                lines = [_decode(line) for line in path.read_bytes().splitlines()]
            except FileNotFoundError:  # another worker has booked it
                continue
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                log.error("ledger.spill_rejected", reason=type(error).__name__)
                _reject(path)
                continue
            try:
                operations = [_operation_of(await _with_tenant(line, find_tenant)) for line in lines]
            except DatabaseUnavailable:
                log.warning("ledger.spill_is_late", charges=len(lines))
                continue
            futures = [ledger.book(operation) for operation in operations]
            _, waiting = await asyncio.wait(futures, timeout=BOOKING_WAIT_S)
            if waiting:
                log.warning("ledger.spill_is_late", charges=len(waiting))
                continue
            refused = [refusal for future in futures if (refusal := future.exception()) is not None]
            for refusal in refused:
                log.error("ledger.spill_rejected", reason=type(refusal).__name__)
            if refused:
                _reject(path)
            else:
                path.unlink(missing_ok=True)
            log.info("ledger.spill_booked", charges=len(operations) - len(refused))


def _reject(path: Path) -> None:
    """Keep a file aside. Another worker may have done so."""
    with suppress(FileNotFoundError):
        path.replace(path.with_suffix(".rejected"))


def _line_of(operation: Closing) -> _Line:
    match operation:
        case Settle(charge_id, tenant_id, usage, basis, error, linked_id=linked_id):
            return _Settle(charge_id, usage, basis, error, tenant_id, linked_id)
        case Release(charge_id, tenant_id, error, linked_id=linked_id):
            return _Release(charge_id, error, tenant_id, linked_id)
        case Recover(charge_id, caller, terms, granted_output, usage, basis):
            return _Recover(charge_id, caller, terms, granted_output, usage, basis)
        case _:
            assert_never(operation)


async def _with_tenant(line: _Line, find_tenant: FindTenant) -> _Line:
    """The line with the tenant of its charge, if there is such a charge. If not, the ledger finds none either."""
    if not isinstance(line, _Recover) and line.tenant_id == UNKNOWN_TENANT:
        line.tenant_id = await find_tenant(line.charge_id) or UNKNOWN_TENANT
    return line


def _operation_of(line: _Line) -> Closing:
    match line:
        case _Settle(charge_id, usage, basis, error, tenant_id, linked_id):
            return Settle(charge_id, tenant_id, usage, basis, error, linked_id=linked_id)
        case _Release(charge_id, error, tenant_id, linked_id):
            return Release(charge_id, tenant_id, error, linked_id=linked_id)
        case _Recover(charge_id, caller, terms, granted_output, usage, basis):
            return Recover(charge_id, caller, terms, granted_output, usage, basis)
        case _:
            assert_never(line)
