"""The tables of files. Times are milliseconds since the epoch, UTC."""

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKeyConstraint, LargeBinary
from sqlmodel import Field, SQLModel


class FileStatus(StrEnum):
    """An `uploading` file is received from its user, a `writing` one is made by the server. Only `ready` ones are
    shown. The chunks of a `deleted` one are being deleted.
    """

    UPLOADING = "uploading"
    WRITING = "writing"
    READY = "ready"
    DELETED = "deleted"


class Purpose(StrEnum):
    """What a file is for. The first two are those of OpenAI's API; the others are not shown there."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"
    MESSAGE_BATCH = "message_batch"
    MESSAGE_BATCH_OUTPUT = "message_batch_output"


class StoredFile(SQLModel, table=True):
    """A file without its content. `name` is encrypted. `bytes` is its size, or what an `uploading` one may have."""

    __tablename__ = "files"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    id: str = Field(primary_key=True, max_length=50)
    user_id: int = Field(foreign_key="users.id")
    purpose: str = Field(max_length=30)
    status: str = Field(max_length=10)
    name: bytes = Field(sa_type=LargeBinary, repr=False)
    bytes: int = Field(sa_type=BigInteger)
    chunks: int = 0
    created_ms: int = Field(sa_type=BigInteger)
    expires_ms: int = Field(sa_type=BigInteger)


class FileChunk(SQLModel, table=True):
    """A part of a file, from its byte `starts_at` to before its byte `ends_at`. `content` is encrypted."""

    __tablename__ = "file_chunks"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "file_id"], ["files.tenant_id", "files.id"], ondelete="CASCADE"),
    )

    tenant_id: int = Field(primary_key=True)
    file_id: str = Field(primary_key=True, max_length=50)
    number: int = Field(primary_key=True)
    starts_at: int = Field(sa_type=BigInteger)
    ends_at: int = Field(sa_type=BigInteger)
    content: bytes = Field(sa_type=LargeBinary, repr=False)
