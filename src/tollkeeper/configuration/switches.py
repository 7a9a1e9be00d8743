"""Models and providers that an operator has switched off for all tenants."""

from enum import StrEnum

from sqlalchemy import delete, text
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.configuration.models import SwitchedOff

_SWITCH_OFF = text(
    "INSERT INTO switched_off (kind, name, reason, created_ms) VALUES (:kind, :name, :reason, :now_ms)"
    " ON CONFLICT (kind, name) DO NOTHING"
)


class Switchable(StrEnum):
    """What can be switched off."""

    MODEL = "model"
    PROVIDER = "provider"


async def list_switched_off(session: AsyncSession) -> list[SwitchedOff]:
    """All that is switched off."""
    return list((await session.exec(select(SwitchedOff))).all())


async def switch_off(session: AsyncSession, kind: Switchable, name: str, reason: str, now_ms: int) -> bool:
    """Returns whether it was on."""
    values = {"kind": kind.value, "name": name, "reason": reason, "now_ms": now_ms}
    return (await (await session.connection()).execute(_SWITCH_OFF, values)).rowcount > 0


async def switch_on(session: AsyncSession, kind: Switchable, name: str) -> SwitchedOff | None:
    """Returns what was switched off; None if it was on."""
    this = col(SwitchedOff.kind) == kind.value, col(SwitchedOff.name) == name
    found = (await session.exec(select(SwitchedOff).where(*this))).first()
    if found is not None:
        await session.exec(delete(SwitchedOff).where(*this))
    return found
