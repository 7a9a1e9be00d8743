"""Encrypts files, each chunk for its place."""

from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.files.models import StoredFile


class FileContents:
    """Seals and opens the chunks and the names of files."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    def seal_name(self, file: StoredFile, name: str) -> bytes:
        return self._keys.seal(Purpose.FILES, name.encode(), _place(file, "name"))

    def read_name(self, file: StoredFile) -> str:
        """Raises SealBroken."""
        return self._keys.unseal(Purpose.FILES, file.name, _place(file, "name")).decode()

    def seal_chunk(self, file: StoredFile, number: int, content: bytes) -> bytes:
        return self._keys.seal(Purpose.FILES, content, _place(file, str(number)))

    def read_chunk(self, file: StoredFile, number: int, content: bytes) -> bytes:
        """Raises SealBroken."""
        return self._keys.unseal(Purpose.FILES, content, _place(file, str(number)))


def _place(file: StoredFile, part: str) -> str:
    return f"files/{file.tenant_id}/{file.user_id}/{file.id}/{part}"
