"""Users' sessions and second factors: list, end, reset."""

from sqlmodel import col, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.administration.users import get_user
from tollkeeper.errors import Forbidden, NotFound
from tollkeeper.identity.models import Session, User
from tollkeeper.identity.sessions import Sessions
from tollkeeper.identity.totp import SecondFactors
from tollkeeper.principal import Role


async def list_sessions(admin: Administrator, sessions: Sessions, user_id: int) -> list[Session]:
    """The sessions of a user that have not ended, the newest first. Raises NotFound, Forbidden."""
    return await sessions.list_live(admin.session, await _find_user(admin, user_id))


async def end_session(admin: Administrator, sessions: Sessions, session_id: str) -> None:
    """Refuse the tokens of a session from the next request on. Raises NotFound, Forbidden."""
    query = select(Session.user_id).where(Session.id == session_id, admin.scope.condition(col(Session.tenant_id)))
    user_id = (await admin.session.exec(query)).first()
    if user_id is None:
        raise NotFound
    row = await sessions.revoke(admin.session, await _find_user(admin, user_id), session_id)
    await admin.note(row.tenant_id, "session.end", f"session:{row.id}", after={"user": row.user_id})


async def end_all_sessions(admin: Administrator, sessions: Sessions, user_id: int) -> int:
    """End every session of a user. Returns their number. Raises NotFound, Forbidden."""
    user = await _find_user(admin, user_id)
    count = await sessions.revoke_all(admin.session, user)
    if count:
        await admin.note(user.tenant_id, "session.end_all", f"user:{user.id}", after={"sessions": count})
    return count


async def reset_second_factor(admin: Administrator, second_factors: SecondFactors, user_id: int) -> None:
    """Let a user log in with the password alone. Raises StepUpRequired, NotFound (also without a second factor),
    Forbidden.
    """
    admin.require_fresh_login()
    user = await _find_user(admin, user_id)
    if not await second_factors.remove(admin.session, user):
        raise NotFound
    await admin.note(user.tenant_id, "totp.reset", f"user:{user.id}")


async def _find_user(admin: Administrator, user_id: int) -> User:
    """A user whom the administrator may manage. Raises NotFound outside of their scope; Forbidden for a higher role."""
    user = await get_user(admin, user_id)
    if Role(user.role).rank > admin.role.rank:
        raise Forbidden("Only operators may manage operators.")
    return user
