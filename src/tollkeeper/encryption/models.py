"""The table of the keys that encrypt what is stored."""

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class WrappedKey(SQLModel, table=True):
    """A key for one purpose, encrypted with the installation's data key."""

    __tablename__ = "wrapped_keys"

    purpose: str = Field(primary_key=True, max_length=20)
    wrapped: bytes = Field(repr=False)
    created_ms: int = Field(sa_type=BigInteger)
