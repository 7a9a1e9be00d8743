"""A ledger as the code stored it from revision 0004 to 0008: the rows of its tables, with keys of another shape."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel.sql.sqltypes import UTCDateTime

from tollkeeper.database.engine import async_url

JANUARY_MS = 1_769_903_940_000
"""2026-01-31 23:59:00 UTC."""
FEBRUARY_MS = JANUARY_MS + 120_000
DAY_MS = 86_400_000
HELD = {"tokens": 100, "micro_usd": 380}
PRICES = {"price_input": 2_000_000, "price_cached": 1_000_000, "price_output": 4_000_000}
RESPONSE = b'{"cost":37}'
FINGERPRINT = "a" * 64
BALANCES = ("granted", "settled", "pending", "forgiven")
CREATED_AT = datetime(2026, 1, 1, tzinfo=UTC)
TABLES = ("tenants", "users", "quotas", "windows", "charges", "entries", "idempotency_keys")
NULLABLE = (
    *("price_cache_write", "basis", "closed_by", "input_tokens", "output_tokens", "cached_input_tokens"),
    *("cache_write_tokens", "cost_micro_usd", "forgiven_micro_usd", "error", "closed_ms"),
)
COUNTS = (
    *("input_bound", "granted_output", "held_tokens", "held_micro_usd", "checkpoint_input", "checkpoint_output"),
    *("cost_tokens", "forgiven_tokens"),
)
FLAGS = ("overrun", "adjusted", "refunded")
Row = dict[str, Any]


def old_id(prefix: str, at_ms: int, number: int) -> str:
    """An id as `new_id` has always made them, with a number for its random bits."""
    return f"{prefix}_{at_ms:012x}{number:020x}"


@dataclass
class OldLedger:
    """Two tenants with a user each; tenant 1 has a quota, and user 1 has two."""

    tables: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in TABLES})
    quotas: tuple[tuple[int, int | None, str, str, int], ...] = (
        (1, 1, "tokens", "day", 1_000),
        (1, None, "tokens", "month", 5_000),
        (1, 1, "micro_usd", "total", 50_000),
        (2, 2, "tokens", "day", 1_000),
    )

    def fill(self) -> None:
        """Charges that ended in each way there is, on both sides of the end of a month; two are open."""
        for tenant_id in (1, 2):
            self.tables["tenants"].append({"id": tenant_id, "name": f"old-{tenant_id}", "created_at": CREATED_AT})
            row: Row = {"id": tenant_id, "tenant_id": tenant_id, "email": f"old-{tenant_id}@example.com"}
            row |= {"password_hash": "-", "role": "member", "token_version": 0, "created_at": CREATED_AT}
            self.tables["users"].append(row)
        for number, (tenant_id, user_id, unit, period, granted) in enumerate(self.quotas, 1):
            owner = {"id": number, "tenant_id": tenant_id, "user_id": user_id}
            self.tables["quotas"].append(owner | {"unit": unit, "period": period, "granted": 0})
            created_ms = JANUARY_MS - 7_200_000
            window = self.window(number, created_ms)
            self.tables["quotas"][-1]["granted"] = granted
            self.post(window, "limit", old_id("adm", created_ms, number), created_ms, {"granted": granted}, "cli:root")
        for user in (1, 2):
            paid = self.reserve(user, JANUARY_MS)
            self.end(paid, JANUARY_MS + 5, "settle", "provider", (7, 30))
            self.key(paid, "answered", response=RESPONSE)
            refunded = self.reserve(user, JANUARY_MS + 10)
            self.end(refunded, FEBRUARY_MS, "settle", "provider", (5, 20))
            self.refund(refunded, FEBRUARY_MS + 5)
            released = self.reserve(user, FEBRUARY_MS)
            self.end(released, FEBRUARY_MS + 5, "release", "none", (0, 0))
            self.key(released, "free")
            expired = self.reserve(user, FEBRUARY_MS + 10)
            self.end(expired, FEBRUARY_MS + 15, "expire", "unknown", (10, 0))
            adjusted = self.reserve(user, JANUARY_MS + 20)
            self.end(adjusted, FEBRUARY_MS + 20, "expire", "unknown", (10, 0))
            self.adjust(adjusted, FEBRUARY_MS + 25, (10, 40))
            self.replay(user, FEBRUARY_MS + 30)
            self.key(self.reserve(user, FEBRUARY_MS + 40), "in flight")

    def window(self, quota_id: int, at_ms: int) -> Row:
        """The window of this time, opened if there is none."""
        period = self.tables["quotas"][quota_id - 1]["period"]
        ends_ms: int | None
        if period == "total":
            starts_ms, ends_ms = 0, None
        elif period == "day":
            starts_ms = at_ms - at_ms % DAY_MS
            ends_ms = starts_ms + DAY_MS
        else:
            first_of_february = FEBRUARY_MS - FEBRUARY_MS % DAY_MS
            january, february = first_of_february - 31 * DAY_MS, first_of_february + 28 * DAY_MS
            is_january = at_ms < first_of_february
            starts_ms, ends_ms = (january, first_of_february) if is_january else (first_of_february, february)
        for window in self.tables["windows"]:
            if (window["quota_id"], window["starts_ms"]) == (quota_id, starts_ms):
                return window
        window = {"id": len(self.tables["windows"]) + 1, "quota_id": quota_id, "starts_ms": starts_ms}
        window |= {"ends_ms": ends_ms, **dict.fromkeys(BALANCES, 0), "sequence": 0}
        self.tables["windows"].append(window)
        granted = self.tables["quotas"][quota_id - 1]["granted"]
        self.post(window, "open", f"{quota_id}:{starts_ms}", at_ms, {"granted": granted})
        return window

    def post(
        self, window: Row, kind: str, source_id: str, at_ms: int, amounts: dict[str, int], by: str | None = None
    ) -> None:
        window["sequence"] += 1
        for name, amount in amounts.items():
            window[name] += amount
        entry = {"window_id": window["id"], "sequence": window["sequence"], "source_id": source_id, "kind": kind}
        entry |= dict.fromkeys(BALANCES, 0) | amounts | {"at_ms": at_ms, "actor": by, "reason": by and "because"}
        self.tables["entries"].append(entry)

    def charge(self, user: int, at_ms: int, **columns: Any) -> Row:
        charge_id = old_id("chg", at_ms, len(self.tables["charges"]))
        row = {"id": charge_id, "tenant_id": user, "user_id": user, "surface": "query", "provider": "echo"}
        row |= {"model": "echo", "weight_milli": 1_000, **PRICES, "created_ms": at_ms, "lease_ms": at_ms + 60_000}
        row |= dict.fromkeys(NULLABLE) | dict.fromkeys(COUNTS, 0) | dict.fromkeys(FLAGS, False) | columns
        self.tables["charges"].append(row)
        return row

    def reserve(self, user: int, at_ms: int) -> Row:
        held = {"held_tokens": HELD["tokens"], "held_micro_usd": HELD["micro_usd"]}
        bounds = {"input_bound": 10, "granted_output": 90, "checkpoint_input": 10}
        charge = self.charge(user, at_ms, state="dispatched", **held, **bounds)
        for number, (tenant_id, user_id, unit, _, _) in enumerate(self.quotas, 1):
            if tenant_id == user and user_id in (None, user):
                self.post(self.window(number, at_ms), "reserve", charge["id"], at_ms, {"pending": HELD[unit]})
        return charge

    def windows_of(self, charge: Row) -> list[tuple[Row, str]]:
        """The windows in which a charge was reserved, each with its unit."""
        held = [
            each for each in self.tables["entries"] if (each["source_id"], each["kind"]) == (charge["id"], "reserve")
        ]
        windows = [self.tables["windows"][entry["window_id"] - 1] for entry in held]
        return [(window, self.tables["quotas"][window["quota_id"] - 1]["unit"]) for window in windows]

    def end(self, charge: Row, at_ms: int, kind: str, basis: str, usage: tuple[int, int]) -> None:
        cost, forgiven = cost_of(usage), dict.fromkeys(HELD, 0)
        if kind == "expire":
            forgiven = {unit: held - cost[unit] for unit, held in HELD.items()}
        for window, unit in self.windows_of(charge):
            amounts = {"pending": -HELD[unit], "settled": cost[unit], "forgiven": forgiven[unit]}
            self.post(window, kind, charge["id"], at_ms, amounts)
        charge |= {"state": "released" if basis == "none" else "settled", "basis": basis, "closed_by": kind}
        charge |= {
            "closed_ms": at_ms,
            "forgiven_tokens": forgiven["tokens"],
            "forgiven_micro_usd": forgiven["micro_usd"],
        }
        book(charge, usage)

    def adjust(self, charge: Row, at_ms: int, usage: tuple[int, int]) -> None:
        cost = cost_of(usage)
        booked = {"tokens": charge["cost_tokens"], "micro_usd": charge["cost_micro_usd"]}
        for window, unit in self.windows_of(charge):
            amounts = {"settled": cost[unit] - booked[unit], "forgiven": booked[unit] - HELD[unit]}
            self.post(window, "adjust", charge["id"], at_ms, amounts)
        charge |= {"adjusted": True, "basis": "provider", "forgiven_tokens": 0, "forgiven_micro_usd": 0}
        book(charge, usage)

    def refund(self, charge: Row, at_ms: int) -> None:
        charge["refunded"] = True
        cost = {"tokens": charge["cost_tokens"], "micro_usd": charge["cost_micro_usd"]}
        for window, unit in self.windows_of(charge):
            self.post(window, "refund", charge["id"], at_ms, {"settled": -cost[unit]}, "cli:root")

    def replay(self, user: int, at_ms: int) -> None:
        ended = {"state": "settled", "basis": "cache", "closed_by": "settle", "closed_ms": at_ms}
        book(self.charge(user, at_ms, **ended, held_micro_usd=0), (0, 0))

    def key(self, charge: Row, key: str, response: bytes | None = None) -> None:
        row = {"user_id": charge["user_id"], "key": key, "charge_id": charge["id"], "fingerprint": FINGERPRINT}
        row |= {
            "created_ms": charge["created_ms"],
            "status": response and 200,
            "content_type": response and "text/plain",
        }
        self.tables["idempotency_keys"].append(row | {"body": response})

    async def insert(self, database_url: str) -> None:
        """Write the rows to a database of one of these revisions."""
        engine = create_async_engine(async_url(database_url))
        async with engine.begin() as connection:
            for table, rows in self.tables.items():
                columns = [sa.column(name, UTCDateTime() if name == "created_at" else None) for name in rows[0]]
                await connection.execute(sa.insert(sa.table(table, *columns)), rows)
                if engine.dialect.name == "postgresql" and table in ("tenants", "users", "quotas", "windows"):
                    await connection.execute(sa.text(f"SELECT setval('{table}_id_seq', {len(rows)})"))
        await engine.dispose()


def cost_of(usage: tuple[int, int]) -> dict[str, int]:
    return {"tokens": sum(usage), "micro_usd": 2 * usage[0] + 4 * usage[1]}


def book(charge: Row, usage: tuple[int, int]) -> None:
    cost = cost_of(usage)
    charge |= {"input_tokens": usage[0], "output_tokens": usage[1], "cached_input_tokens": 0, "cache_write_tokens": 0}
    charge |= {"cost_tokens": cost["tokens"], "cost_micro_usd": cost["micro_usd"]}
