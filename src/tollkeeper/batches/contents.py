"""Encrypts what users put into batches beside their lines, and what is wrong with these."""

import json
from typing import Any

from tollkeeper.batches.models import Batch
from tollkeeper.encryption.data_keys import DataKeys, Purpose


class BatchContents:
    """Seals and opens the options and the errors of batches, which are JSON documents."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    def seal(self, batch: Batch, part: str, document: Any) -> bytes:
        """`part` is the name of the column."""
        return self._keys.seal(Purpose.FILES, json.dumps(document).encode(), _place(batch, part))

    def read_options(self, batch: Batch) -> dict[str, Any]:
        """Raises SealBroken."""
        options: dict[str, Any] = self._read(batch, "options", batch.options)
        return options

    def read_errors(self, batch: Batch) -> list[dict[str, Any]]:
        """Raises SealBroken."""
        return [] if batch.errors is None else self._read(batch, "errors", batch.errors)

    def _read(self, batch: Batch, part: str, sealed: bytes) -> Any:
        return json.loads(self._keys.unseal(Purpose.FILES, sealed, _place(batch, part)))


def _place(batch: Batch, part: str) -> str:
    return f"batches/{batch.tenant_id}/{batch.user_id}/{batch.id}/{part}"
