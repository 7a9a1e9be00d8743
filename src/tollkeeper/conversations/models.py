"""The tables of conversations. Times are milliseconds since the epoch, UTC."""

from sqlalchemy import BigInteger, Integer, Text
from sqlmodel import Field, SQLModel

Id = BigInteger().with_variant(Integer, "sqlite")


class StoredConversation(SQLModel, table=True):
    """A conversation. Its user chose the name.

    `turns` is the number of stored messages, and `tokens` the sum of theirs; neither counts the system prompt.
    `sequence` is the number of the newest message, and so the number of messages there ever were. `sealed`: the system
    prompt is encrypted.
    """

    __tablename__ = "conversations"

    id: int | None = Field(default=None, primary_key=True, sa_type=Id)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int = Field(foreign_key="users.id")
    name: str = Field(max_length=100)
    system_prompt: str | None = Field(default=None, sa_type=Text, repr=False)
    sealed: bool = False
    turns: int = 0
    tokens: int = 0
    sequence: int = Field(default=0, sa_type=BigInteger)
    created_ms: int = Field(sa_type=BigInteger)
    updated_ms: int = Field(sa_type=BigInteger)


class StoredMessage(SQLModel, table=True):
    """A message of the user or of the model. `tokens` is an upper bound. `sealed`: the content is encrypted."""

    __tablename__ = "conversation_turns"

    conversation_id: int = Field(primary_key=True, foreign_key="conversations.id", ondelete="CASCADE", sa_type=Id)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    tenant_id: int = Field(foreign_key="tenants.id")
    user_id: int = Field(foreign_key="users.id")
    role: str = Field(max_length=10)
    content: str = Field(sa_type=Text, repr=False)
    sealed: bool = False
    tokens: int
