"""The tables of tags. Times are milliseconds since the epoch, UTC."""

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel


class TagName(SQLModel, table=True):
    """A tag that the calls of a tenant may have, or must if it `is_required`. Its name is unique in the tenant. With
    `any_value`, calls bring new values, up to `max_values`; else it has those that it is given. `known_values` is their
    number. Calls cannot name one that is closed; its values, quotas and charges stay.
    """

    __tablename__ = "tag_names"

    id: int | None = Field(default=None, primary_key=True)
    tenant_id: int = Field(foreign_key="tenants.id")
    name: str = Field(max_length=40)
    any_value: bool
    is_required: bool = False
    max_values: int
    known_values: int = 0
    version: int = 0
    created_ms: int = Field(sa_type=BigInteger)
    closed_ms: int | None = Field(default=None, sa_type=BigInteger)


class TagValue(SQLModel, table=True):
    """A value that a tag may have, or that a call has brought. No later value takes its place: else a caller could
    escape the quota of each value by ever new ones. `user_id` is the user whose call has brought it, and `user_number`
    the how manyth of theirs it is; None and 0 for those that an administrator named.
    """

    __tablename__ = "tag_values"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    tag_id: int = Field(primary_key=True, foreign_key="tag_names.id")
    value: str = Field(primary_key=True, max_length=64)
    created_ms: int = Field(sa_type=BigInteger)
    user_id: int | None = None
    user_number: int = 0
