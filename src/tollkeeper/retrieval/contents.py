"""Encrypts what users put into documents, each for its place."""

from tollkeeper.encryption.data_keys import DataKeys, Purpose


class DocumentContents:
    """Seals and opens the parts of documents. `opened` raises SealBroken."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    def seal(self, plain: bytes, tenant_id: int, document_id: str, part: str) -> bytes:
        return self._keys.seal(Purpose.DOCUMENTS, plain, _place(tenant_id, document_id, part))

    def opened(self, sealed: bytes, tenant_id: int, document_id: str, part: str) -> bytes:
        return self._keys.unseal(Purpose.DOCUMENTS, sealed, _place(tenant_id, document_id, part))

    def word(self, word: str, tenant_id: int) -> str:
        """What stands for a word in the index of a tenant's words."""
        return self._keys.mac(Purpose.DOCUMENTS, f"words/{tenant_id}/{word}".encode())[:WORD_BYTES].hex()


WORD_BYTES = 6
"""Of 48 bits: two words of one tenant that are taken for each other are one in millions."""
NAME, CONTENT = "name", "content"


def chunk_part(number: int) -> str:
    """The part of a document that is this chunk."""
    return f"chunk/{number}"


def vectors_part(model: str, first: int) -> str:
    """The part of a document that are the vectors of a model, from this chunk on."""
    return f"vectors/{model}/{first}"


def _place(tenant_id: int, document_id: str, part: str) -> str:
    return f"documents/{tenant_id}/{document_id}/{part}"
