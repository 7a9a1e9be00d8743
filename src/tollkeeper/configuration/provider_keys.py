"""Tenants' own keys for providers: stored encrypted, for the tenant, the provider and the row that they belong to."""

import secrets

from pydantic import SecretStr
from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from tollkeeper.configuration.models import ProviderKey
from tollkeeper.database.upsert import insert_into
from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.tenant_scope import TenantScope

SUFFIX_LENGTH = 4


async def list_keys(session: AsyncSession, scope: TenantScope) -> list[ProviderKey]:
    """The keys of the scope, by tenant and provider."""
    query = select(ProviderKey).where(scope.condition(col(ProviderKey.tenant_id)))
    return list((await session.exec(query.order_by(col(ProviderKey.tenant_id), col(ProviderKey.provider)))).all())


async def find_key(session: AsyncSession, tenant_id: int, provider: str) -> ProviderKey | None:
    """The tenant's key for the provider."""
    query = select(ProviderKey).where(ProviderKey.tenant_id == tenant_id, ProviderKey.provider == provider)
    return (await session.exec(query)).first()


async def store_key(
    session: AsyncSession, keys: DataKeys, tenant_id: int, provider: str, secret: SecretStr, now_ms: int
) -> ProviderKey:
    """Store a tenant's key for the provider, in place of any earlier one. The row of each key has an id of its own."""
    key = secret.get_secret_value()
    row = ProviderKey(
        id=f"pk_{secrets.token_hex(12)}",
        tenant_id=tenant_id,
        provider=provider,
        sealed_key=b"",
        suffix=key[-SUFFIX_LENGTH:],
        created_ms=now_ms,
    )
    row.sealed_key = keys.seal(Purpose.PROVIDER_KEYS, key.encode(), _place(row))
    connection = await session.connection()
    values = row.model_dump()
    replaced = {name: value for name, value in values.items() if name not in ("tenant_id", "provider")}
    statement = insert_into(connection, ProviderKey).values(values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["tenant_id", "provider"], set_=replaced))
    return row


async def delete_key(session: AsyncSession, tenant_id: int, provider: str) -> bool:
    """Delete the tenant's key for the provider. Returns whether there was one."""
    of_tenant = col(ProviderKey.tenant_id) == tenant_id, col(ProviderKey.provider) == provider
    return (await session.exec(delete(ProviderKey).where(*of_tenant))).rowcount > 0


def read_key(keys: DataKeys, row: ProviderKey) -> SecretStr:
    """The key of a row. Raises SealBroken."""
    return SecretStr(keys.unseal(Purpose.PROVIDER_KEYS, row.sealed_key, _place(row)).decode())


def _place(row: ProviderKey) -> str:
    return f"provider_keys/{row.tenant_id}/{row.provider}/{row.id}"
