"""The tables of usage: charges that the roll-ups do not have yet, and sums per 15 minutes and per day.

Times are milliseconds since the epoch, UTC. Amounts are integers; `cost_…` is what was deducted, before refunds.
"""

from sqlalchemy import BigInteger, Integer, Text
from sqlmodel import Field, SQLModel

Id = BigInteger().with_variant(Integer, "sqlite")


class Measured(SQLModel):
    """What is added up of charges. A call is settled or, as a failed one, released; a cached one cost nothing."""

    calls: int = Field(default=0, sa_type=BigInteger)
    cached_calls: int = Field(default=0, sa_type=BigInteger)
    failed_calls: int = Field(default=0, sa_type=BigInteger)
    input_tokens: int = Field(default=0, sa_type=BigInteger)
    cached_input_tokens: int = Field(default=0, sa_type=BigInteger)
    output_tokens: int = Field(default=0, sa_type=BigInteger)
    cost_tokens: int = Field(default=0, sa_type=BigInteger)
    cost_micro_usd: int = Field(default=0, sa_type=BigInteger)
    refunded_tokens: int = Field(default=0, sa_type=BigInteger)
    refunded_micro_usd: int = Field(default=0, sa_type=BigInteger)
    forgiven_tokens: int = Field(default=0, sa_type=BigInteger)
    forgiven_micro_usd: int = Field(default=0, sa_type=BigInteger)


class UsageChange(SQLModel, table=True):
    """A closed charge was changed, so the sums of its 15 minutes are to be computed anew. `charge_id` can stand for
    several charges of a tenant in the same 15 minutes. The ledger writes it in the transaction of the change.
    """

    __tablename__ = "usage_changes"

    id: int | None = Field(default=None, primary_key=True, sa_type=Id)
    tenant_id: int
    charge_id: str = Field(max_length=40)


class UsageBucket(Measured, table=True):
    """The sums of the charges that a tenant's user made in 15 minutes, by the time in their ids, and that are alike.

    `number` tells the rows of a bucket apart. Without an API key, group or tags, the columns are empty or 0. `tags` is
    a JSON object of names and values.
    """

    __tablename__ = "usage_buckets"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    bucket_ms: int = Field(primary_key=True, sa_type=BigInteger)
    number: int = Field(primary_key=True)
    user_id: int
    key_id: str = Field(max_length=40)
    group_id: int
    provider: str = Field(max_length=40)
    model: str = Field(max_length=200)
    surface: str = Field(max_length=20)
    tags: str = Field(sa_type=Text)


class UsageDay(Measured, table=True):
    """The sums of a tenant's day in UTC by one `dimension`: `value` is the begin of 15 minutes, the model, the id of
    the user or the key, the surface, or a tag as `name=value`. A model's row is of one provider and group, too.
    """

    __tablename__ = "usage_days"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    dimension: str = Field(primary_key=True, max_length=10)
    day_ms: int = Field(primary_key=True, sa_type=BigInteger)
    value: str = Field(primary_key=True, max_length=400)
    provider: str = Field(primary_key=True, max_length=40)
    group_id: int = Field(primary_key=True)


class UsageRollupState(SQLModel, table=True):
    """How often the roll-ups were changed, and when the last run of them began. There is one row, with the id 1."""

    __tablename__ = "usage_rollup_state"

    id: int = Field(primary_key=True)
    revision: int = Field(sa_type=BigInteger)
    rolled_ms: int = Field(sa_type=BigInteger)
