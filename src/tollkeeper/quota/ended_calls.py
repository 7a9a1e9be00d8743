"""Calls that have ended, as the `ai.response` events of servers describe them (`docs/events.schema.json`)."""

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from tollkeeper.chat import Price, Usage
from tollkeeper.principal import Principal, Role
from tollkeeper.quota.rules.meter import WEIGHT_ONE, Meter
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import Terms
from tollkeeper.quota.time_sorted_ids import CHARGE_ID, month_of

MAX_SURFACE = 20
"""The longest surface of a charge."""

# A file of events may be damaged, or be written by others: what no call can have must not get into the ledger.
_Count = Annotated[int, Meta(ge=0, le=10**12)]
"""Tokens, or a price."""
_Weight = Annotated[int, Meta(ge=0, le=10**6)]
_Cost = Annotated[int, Meta(ge=0, le=10**18)]
_Id = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_SHORT, _LONG = Meta(max_length=40, pattern=r"^[^\x00]*\Z"), Meta(max_length=200, pattern=r"^[^\x00]*\Z")


class _Named(msgspec.Struct):
    name: Annotated[str, _SHORT] = ""


class _Numbered(msgspec.Struct):
    id: _Id


class _Model(msgspec.Struct):
    id: Annotated[str, _LONG] | None = None


class _Error(msgspec.Struct):
    code: Annotated[str, _SHORT]


class _Usage(msgspec.Struct):
    input_tokens: _Count
    output_tokens: _Count
    cached_input_tokens: _Count = 0
    cache_write_tokens: _Count = 0


class _Price(msgspec.Struct):
    input: _Count
    cached_input: _Count
    output: _Count
    cache_write: _Count | None = None


class _Charge(msgspec.Struct):
    id: str
    basis: Basis
    cost_tokens: _Cost
    cost_micro_usd: _Cost | None = None
    weight_milli: _Weight = WEIGHT_ONE
    price: _Price | None = None
    input_bound: _Count = 0
    granted_output: _Count = 0


class _Data(msgspec.Struct):
    surface: Annotated[str, _SHORT]
    tenant: _Numbered
    user: _Numbered
    provider: _Named
    model: _Model
    charge: _Charge | None = None
    usage: _Usage | None = None
    error: _Error | None = None


class _Event(msgspec.Struct):
    event_type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_data = msgspec.json.Decoder(_Data).decode


class EndedCall(NamedTuple):
    """A call that has ended, as its event says. `cost_tokens` and `cost_micro_usd` are what was deducted."""

    charge_id: str
    caller: Principal
    terms: Terms
    granted_output: int
    usage: Usage
    basis: Basis
    error: str | None
    cost_tokens: int
    cost_micro_usd: int


def read_ended_call(line: bytes) -> EndedCall | None:
    """The call in a line of an events' file. None for another event, and for a call without a charge.

    Raises ValueError for a line that is no event, or has a number or a text that no call can have.
    """
    event = _decode_event(line)
    if event.event_type != "ai.response":
        return None
    data = _decode_data(event.data)
    charge, usage = data.charge, data.usage
    if charge is None or usage is None:
        return None
    if not CHARGE_ID.fullmatch(charge.id) or len(data.surface) > MAX_SURFACE:
        raise ValueError("this is no charge")
    month_of(charge.id)  # its time may be none
    price = charge.price
    terms = Terms(
        surface=data.surface,
        provider=data.provider.name,
        model=data.model.id or "",
        meter=Meter(charge.weight_milli, Price(*msgspec.structs.astuple(price)) if price is not None else None),
        input_bound=charge.input_bound,
        wanted_output=charge.granted_output,
        least_output=charge.granted_output,
    )
    return EndedCall(
        charge.id,
        Principal(data.user.id, data.tenant.id, Role.MEMBER, 0),
        terms,
        charge.granted_output,
        Usage(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.cache_write_tokens),
        charge.basis,
        data.error.code if data.error is not None else None,
        charge.cost_tokens,
        charge.cost_micro_usd or 0,
    )
