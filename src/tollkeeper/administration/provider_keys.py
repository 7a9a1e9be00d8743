"""Tenants' own provider keys: list, set and delete. A key is never shown again."""

import re

from pydantic import SecretStr

from tollkeeper.administration import tenants
from tollkeeper.administration.administrator import Administrator
from tollkeeper.configuration import provider_keys
from tollkeeper.configuration.models import ProviderKey
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import InvalidRequest, NotFound
from tollkeeper.providers.catalog import NO_SUCH_PROVIDER, Catalog

_KEY = re.compile(r"[\x21-\x7e]{16,512}")


async def list_keys(admin: Administrator, tenant_id: int | None) -> list[ProviderKey]:
    """The keys of a tenant; without one, those that the administrator may see. Raises NotFound."""
    if tenant_id is not None:
        await tenants.get_tenant(admin, tenant_id)
    return await provider_keys.list_keys(admin.session, admin.scope.narrow(tenant_id))


async def get_key(admin: Administrator, tenant_id: int | None, provider: str) -> ProviderKey:
    """The key of a tenant (by default the administrator's own) for a provider, without the secret. Raises NotFound."""
    found = await provider_keys.find_key(admin.session, await _tenant_id(admin, tenant_id), provider)
    if found is None:
        raise NotFound
    return found


async def set_key(
    admin: Administrator, keys: DataKeys, catalog: Catalog, tenant_id: int | None, provider: str, secret: SecretStr
) -> ProviderKey:
    """Set the key of a tenant (by default the administrator's own) for a provider, in place of any earlier one.

    Raises StepUpRequired; NotFound, also for a provider that the operator has not configured; InvalidRequest.
    """
    admin.require_fresh_login()
    owner = await _tenant_id(admin, tenant_id)
    if provider not in catalog.provider_names:
        raise NotFound(NO_SUCH_PROVIDER)
    if provider not in catalog.providers_with_keys:
        raise InvalidRequest("This provider takes no API key.")
    if not _KEY.fullmatch(secret.get_secret_value()):
        raise InvalidRequest("A provider's key has 16 to 512 printable ASCII characters without spaces.")
    before = await provider_keys.find_key(admin.session, owner, provider)
    key = await provider_keys.store_key(admin.session, keys, owner, provider, secret, admin.now_ms)
    await admin.note(
        owner,
        "provider_key.set",
        target_of(owner, provider),
        before={"id": before.id} if before is not None else None,
        after={"id": key.id},
    )
    return key


async def delete_key(admin: Administrator, tenant_id: int | None, provider: str) -> None:
    """Delete the key of a tenant (by default the administrator's own): from now on, the operator's key is used.

    Raises StepUpRequired, NotFound.
    """
    admin.require_fresh_login()
    found = await get_key(admin, tenant_id, provider)
    await provider_keys.delete_key(admin.session, found.tenant_id, provider)
    target = target_of(found.tenant_id, provider)
    await admin.note(found.tenant_id, "provider_key.delete", target, before={"id": found.id})


def target_of(tenant_id: int, provider: str) -> str:
    """How the audit log names a key."""
    return f"provider_key:{tenant_id}/{provider}"


async def _tenant_id(admin: Administrator, tenant_id: int | None) -> int:
    """The tenant that a request means. Raises NotFound for one that the administrator may not see."""
    wanted = admin.tenant_id if tenant_id is None else tenant_id
    if wanted is None:
        raise InvalidRequest("Name the tenant.")
    await tenants.get_tenant(admin, wanted)
    return wanted
