"""Where a ledger is tried out: a database, two processes' stores on it, a clock to move, and a reader beside them."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from enum import StrEnum

import asyncpg
from ledger_model import Account, Outcome
from snapshot import Reader, Snapshot, make_reader, read_snapshot

from support.factories import FakeClock, make_store
from tollkeeper.errors import QuotaExceeded, TollkeeperError
from tollkeeper.quota.rules.decide import decide
from tollkeeper.quota.rules.operations import Balance, ClosedCharge, Hold, Operation, Replayed, Result
from tollkeeper.quota.rules.page import Page, ReadSet
from tollkeeper.quota.stores.base import Store, StoreFailed


class Fate(StrEnum):
    """What becomes of a transaction. The last two end in the same operations being run again."""

    LANDS = "lands"
    ANSWER_LOST = "committed, and the answer lost"
    NEVER_COMMITTED = "decided, and never committed"


class Crash(Exception):
    """Raised between deciding and writing."""


class LedgerBroke(AssertionError):
    """The ledger raised what is neither a refusal nor the database's."""


class World:
    """Serves any number of examples; each has tenants and users of its own."""

    def __init__(self, database_url: str, make: Callable[[str, FakeClock], Store] = make_store) -> None:
        self.clock = FakeClock()
        self._make: Callable[[], Store] = lambda: make(database_url, self.clock)
        self._loop = asyncio.new_event_loop()
        self._stores = [self._make() for _ in range(2)]
        self._reader: Reader = self._loop.run_until_complete(make_reader(database_url))

    def run(
        self, operations: Sequence[Operation], *, process: int, again: bool = False, crash: bool = False
    ) -> list[Result | TollkeeperError]:
        """One transaction. Whatever it raises that is not a refusal means that the ledger is broken."""
        read_set = ReadSet()
        for operation in operations:
            operation.declare_reads(read_set, retried=again)
        results: list[Result | TollkeeperError] = []

        def work(page: Page) -> None:
            results[:] = decide(page, operations)
            if crash:
                raise Crash

        try:
            self._loop.run_until_complete(self._stores[process].run(read_set, work))
        except StoreFailed as error:
            raise AssertionError(f"the database failed: {error.detail}") from error
        except TollkeeperError as refusal:
            return [refusal]
        except Crash:
            return []
        except (sqlite3.IntegrityError, asyncpg.IntegrityConstraintViolationError) as error:
            raise AssertionError(f"a constraint of the database was violated: {error}") from error
        except Exception as error:
            raise LedgerBroke(f"the ledger broke: {error!r}") from error
        return results

    def lapsed(self, process: int) -> list[tuple[str, int]]:
        return self._loop.run_until_complete(self._stores[process].find_lapsed(10_000))

    def delete_old_keys(self, process: int, most: int) -> int:
        return self._loop.run_until_complete(self._stores[process].delete_old_keys(most))

    def restart(self, process: int) -> None:
        """A process that remembers nothing."""
        self._loop.run_until_complete(self._stores[process].close())
        self._stores[process] = self._make()

    def snapshot(self, tenant_ids: Sequence[int]) -> Snapshot:
        return self._loop.run_until_complete(read_snapshot(self._reader, tenant_ids))

    def execute(self, statement: str) -> None:
        """By a connection that is not the ledger's."""
        self._loop.run_until_complete(self._reader.execute(statement))

    def create_users(self, example: int) -> dict[int, Account]:
        """Two users of one tenant and one of another, new to this database."""
        created_ms = "'2024-01-01 00:00:00'"
        accounts = {}
        for tenant, users in (("a", "xy"), ("b", "z")):
            name = f"{tenant}{example}"
            self.execute(f"INSERT INTO tenants (name, created_at) VALUES ('{name}', {created_ms})")
            tenant_id = self._id(f"tenants WHERE name = '{name}'")
            for user in users:
                email = f"{user}{example}@example.com"
                self.execute(
                    "INSERT INTO users (tenant_id, email, password_hash, role, created_at)"
                    f" VALUES ({tenant_id}, '{email}', '-', 'member', {created_ms})"
                )
                accounts[self._id(f"users WHERE email = '{email}'")] = Account(tenant_id)
        return accounts

    def create_key(self, example: int, user: int, tenant: int) -> str:
        """An API key of a user, new to this database. Returns its id."""
        key_id = f"key_{example}"
        self.execute(
            "INSERT INTO api_keys (id, tenant_id, user_id, name, prefix, key_hash, scopes, created_ms)"
            f" VALUES ('{key_id}', {tenant}, {user}, 'key', 'tk-', 'hash of {key_id}', 'ai', 0)"
        )
        return key_id

    def create_group(self, example: int, tenant: int) -> int:
        """A group without members. Returns its id."""
        self.execute(f"INSERT INTO user_groups (tenant_id, name, created_ms) VALUES ({tenant}, 'team', {example})")
        return self._id(f"user_groups WHERE tenant_id = {tenant}")

    def create_tag(self, tenant: int) -> int:
        """The tag `run` with any value, of which `a` is known. Returns its id."""
        self.execute(
            "INSERT INTO tag_names (tenant_id, name, any_value, is_required, max_values, known_values, version,"
            f" created_ms) VALUES ({tenant}, 'run', true, false, 10, 1, 0, 0)"
        )
        tag_id = self._id(f"tag_names WHERE tenant_id = {tenant}")
        values = f"{tenant}, {tag_id}, 'a', 0"
        self.execute(f"INSERT INTO tag_values (tenant_id, tag_id, value, created_ms) VALUES ({values})")
        return tag_id

    def _id(self, where: str) -> int:
        [[(number,)]] = self._loop.run_until_complete(self._reader.read(f"SELECT id FROM {where}"))
        return int(number)

    def close(self) -> None:
        for store in self._stores:
            self._loop.run_until_complete(store.close())
        self._loop.run_until_complete(self._reader.close())
        self._loop.close()


def as_outcome(response: Result | TollkeeperError) -> Outcome:
    """An answer of the ledger as the model words it."""
    match response:
        case Hold():
            balances = tuple(sorted(map(_shown, response.balances)))
            return "held", response.granted_output, balances, tuple(sorted(response.would_refuse))
        case Replayed():
            balances = tuple(sorted(map(_shown, response.balances)))
            return "replayed", response.response.status, response.response.body.decode(), balances
        case ClosedCharge():
            usage = response.usage
            spent = usage.input_tokens, usage.output_tokens, usage.cached_input_tokens
            balances = tuple(sorted(map(_shown, response.balances)))
            return (
                "closed",
                response.basis,
                spent,
                response.cost_tokens,
                response.cost_micro_usd,
                response.overrun,
                balances,
                tuple(sorted(response.would_refuse)),
            )
        case QuotaExceeded(fallback_model=str(model)):
            return f"QuotaExceeded, then {model}"
        case TollkeeperError():
            return type(response).__name__
        case set():
            return frozenset(response)
        case tuple():
            return tuple(_shown(balance) for balance in response if isinstance(balance, Balance))
        case _:
            return response


def _shown(balance: Balance) -> tuple[str, int, int, int]:
    return balance.quota, balance.limit, balance.used, balance.reserved
