"""The errors of documents. The package shows the whole tree, and is where they are imported from."""

from tollkeeper.errors.base import TollkeeperError


class DocumentError(TollkeeperError):
    """Something about documents cannot be done."""


class DocumentsOff(DocumentError):
    code = "documents_off"
    sentence = "Documents are off here. The operator turns them on with TOLLKEEPER_EMBEDDING_MODEL."


class DocumentUnreadable(DocumentError):
    code = "document_unreadable"
    sentence = "The document cannot be parsed."


class DocumentQuotaExceeded(DocumentError):
    code = "document_quota_exceeded"
    sentence = "The documents of this tenant have reached their limit. Delete some, or ask for more room."


class DocumentExpired(DocumentError):
    code = "document_expired"
    sentence = "The document could not be processed in time. Upload it again."
