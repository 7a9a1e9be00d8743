"""What commands about users print: a sentence, or the user as JSON."""

from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.cli.output import print_json, print_line
from tollkeeper.identity.models import Tenant, User

Record = dict[str, object]


async def record_user(session: AsyncSession, user: User) -> Record:
    """A user as a JSON object."""
    tenant = await session.get(Tenant, user.tenant_id)
    assert tenant is not None
    return {
        "id": user.id,
        "email": user.email,
        "tenant": tenant.name,
        "role": user.role,
        "kind": user.kind,
        "state": state_of(user, tenant),
    }


def state_of(user: User, tenant: Tenant) -> str:
    """Whether a user can log in; if not, why."""
    if user.erased_at:
        return "erased"
    if user.disabled_at:
        return "disabled"
    return "tenant disabled" if tenant.disabled_at else "active"


def print_result(record: object, sentence: str, *, as_json: bool) -> None:
    """Print what a command did, for programs or for people."""
    if as_json:
        print_json(record)
    else:
        print_line(sentence)
