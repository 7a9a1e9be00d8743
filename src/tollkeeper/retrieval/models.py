"""The tables of documents. Times are milliseconds since the epoch, UTC. What users wrote is encrypted.

`owner_id` is the user who alone may read the document, or SHARED: all users of its tenant. It never changes.
"""

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKeyConstraint, Integer, LargeBinary
from sqlmodel import Field, SQLModel

SHARED = 0
Id = BigInteger().with_variant(Integer, "sqlite")


def _of_document() -> tuple[ForeignKeyConstraint]:
    return (ForeignKeyConstraint(["tenant_id", "document_id"], ["documents.tenant_id", "documents.id"]),)


class DocumentStatus(StrEnum):
    """How far a document is. `ready` and `failed` documents are left alone; one that is `deleting` is not seen."""

    PENDING = "pending"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"


class UseKind(StrEnum):
    """Where text of a document can be kept outside of it, each with its key."""

    RESPONSE = "response"
    """The stored response of a request; by the idempotency key."""
    JOB = "job"
    """A background job; by its id."""
    CONTENT = "content"
    """The stored content of a call; by the id of its charge."""
    CACHE = "cache"
    """The response caches of the processes; without a key."""


class Document(SQLModel, table=True):
    """A document of a user.

    `content` is what was uploaded, until it is parsed; `chunks` their number from then on. `embedded` of them have a
    vector of `model`. `queued_ms` is since when it is to be processed, and `available_ms` when that may next be begun:
    a process that works on it moves it on. `attempts` of embedding have failed in a row. `api_key` is the key that it
    was uploaded with, while that pays for its vectors. `error` is the code, and `reason` the sentence, of why it has
    failed.
    """

    __tablename__ = "documents"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    id: str = Field(primary_key=True, max_length=40)
    user_id: int = Field(foreign_key="users.id")
    owner_id: int
    name: bytes = Field(sa_type=LargeBinary, repr=False)
    media_type: str = Field(max_length=100)
    size: int
    status: str = Field(max_length=10)
    content: bytes | None = Field(default=None, sa_type=LargeBinary, repr=False)
    chunks: int | None = None
    embedded: int = 0
    model: str | None = Field(default=None, max_length=200)
    error: str | None = Field(default=None, max_length=40)
    reason: str | None = Field(default=None, max_length=200)
    api_key: str | None = Field(default=None, max_length=40)
    correlation_id: str = Field(max_length=128)
    idempotency_key: str | None = Field(default=None, max_length=255)
    fingerprint: str | None = Field(default=None, max_length=64)
    attempts: int = 0
    created_ms: int = Field(sa_type=BigInteger)
    queued_ms: int = Field(sa_type=BigInteger)
    available_ms: int = Field(sa_type=BigInteger)
    completed_ms: int | None = Field(default=None, sa_type=BigInteger)


class DocumentChunk(SQLModel, table=True):
    """A chunk of a document, by its number from 0. The index of its words has its `id`."""

    __tablename__ = "document_chunks"
    __table_args__ = _of_document()

    id: int | None = Field(default=None, primary_key=True, sa_type=Id)
    tenant_id: int = Field(foreign_key="tenants.id")
    document_id: str = Field(max_length=40)
    owner_id: int
    number: int
    text: bytes = Field(sa_type=LargeBinary, repr=False)


class DocumentVectors(SQLModel, table=True):
    """The vectors of several chunks, `count` from the number `first` on: unit vectors of 32-bit floats, one after the
    other.
    """

    __tablename__ = "document_vectors"
    __table_args__ = _of_document()

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    document_id: str = Field(primary_key=True, max_length=40)
    first: int = Field(primary_key=True)
    owner_id: int
    model: str = Field(max_length=200)
    dimensions: int
    count: int
    vectors: bytes = Field(sa_type=LargeBinary, repr=False)


class DocumentUse(SQLModel, table=True):
    """A place where text of a document is kept outside of it: its kind, a UseKind, and its key there."""

    __tablename__ = "document_uses"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    document_id: str = Field(primary_key=True, max_length=40)
    kind: str = Field(primary_key=True, max_length=10)
    key: str = Field(primary_key=True, max_length=255)
    user_id: int = Field(primary_key=True)
    created_ms: int = Field(sa_type=BigInteger)
