"""Leaves out of a request what the provider would host and bill, where the request is refused with it."""

from collections.abc import Callable, Mapping

import msgspec

from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.errors import InputError

Fields = Mapping[str, msgspec.Raw]


def input_size_without_hosted(
    fields: Fields,
    forwarded: dict[str, bytes],
    dropped: Dropped,
    input_size_of: Callable[[Fields], InputSize],
    leave_out: Callable[[Fields, Dropped], Fields],
) -> InputSize:
    """The counts that bound the input. If it is refused, again without what `leave_out` removes, also in `forwarded`.

    So an ordinary request is read once. Raises InputError.
    """
    try:
        return input_size_of(fields)
    except InputError:
        kept = leave_out(fields, dropped)
        if kept is fields:
            raise
    for name, value in fields.items():
        if name not in kept:
            forwarded.pop(name, None)
        elif kept[name] is not value and name in forwarded:
            forwarded[name] = bytes(kept[name])
    return input_size_of(kept)
