"""The table of the contents of calls. Times are milliseconds since the epoch, UTC."""

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class StoredContent(SQLModel, table=True):
    """The prompt and the answer of one call, encrypted together. The id of its charge sorts by the time."""

    __tablename__ = "call_contents"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    charge_id: str = Field(primary_key=True, max_length=40)
    user_id: int = Field(foreign_key="users.id")
    surface: str = Field(max_length=40)
    provider: str = Field(max_length=40)
    model: str = Field(max_length=200)
    sealed_content: bytes = Field(repr=False)
    created_ms: int = Field(sa_type=BigInteger)
