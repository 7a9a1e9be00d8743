"""The contents of calls: administrators read those of their own tenant, and each that they read is noted.

Operators see none but those of their own tenant, as any other administrator does.
"""

from typing import Any

import orjson
from sqlmodel import col, select

from tollkeeper.administration.administrator import Administrator
from tollkeeper.contents.cipher import unseal
from tollkeeper.contents.models import StoredContent
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.errors import NotFound


async def list_contents(
    admin: Administrator, *, user_id: int | None, before: str | None, limit: int
) -> list[StoredContent]:
    """At most `limit` stored contents, the newest first; with `before`, those of older charges. None is decrypted."""
    query = select(StoredContent).where(StoredContent.tenant_id == admin.tenant_id)
    if user_id is not None:
        query = query.where(StoredContent.user_id == user_id)
    if before is not None:
        query = query.where(col(StoredContent.charge_id) < before)
    return list((await admin.session.exec(query.order_by(col(StoredContent.charge_id).desc()).limit(limit))).all())


async def read_content(admin: Administrator, keys: DataKeys, charge_id: str) -> tuple[StoredContent, dict[str, Any]]:
    """The content of a call, decrypted. The read is noted in the same transaction. Raises NotFound, SealBroken."""
    query = select(StoredContent).where(
        StoredContent.tenant_id == admin.tenant_id, StoredContent.charge_id == charge_id
    )
    stored = (await admin.session.exec(query)).first()
    if stored is None:
        raise NotFound
    content: dict[str, Any] = orjson.loads(unseal(keys, stored))
    await admin.note(stored.tenant_id, "content.read", f"charge:{charge_id}", after={"user": f"user:{stored.user_id}"})
    return stored, content
