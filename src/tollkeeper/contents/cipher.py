"""Encrypts the content of a call for its row: it can be decrypted nowhere else."""

from tollkeeper.contents.models import StoredContent
from tollkeeper.encryption.data_keys import DataKeys, Purpose


def seal(keys: DataKeys, tenant_id: int, charge_id: str, plain: bytes) -> bytes:
    return keys.seal(Purpose.CONTENTS, plain, _place(tenant_id, charge_id))


def unseal(keys: DataKeys, stored: StoredContent) -> bytes:
    """Raises SealBroken."""
    return keys.unseal(Purpose.CONTENTS, stored.sealed_content, _place(stored.tenant_id, stored.charge_id))


def _place(tenant_id: int, charge_id: str) -> str:
    return f"contents/{tenant_id}/{charge_id}"
