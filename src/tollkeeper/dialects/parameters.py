"""What becomes of each parameter of a wire format: passed on, priced, written anew, left out, or refused.

Whatever multiplies the cost is priced into the hold; whatever is unbounded, or kept at the provider, is refused. So is
a parameter that is in no class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import msgspec

from tollkeeper.errors import UnsayableOption, UnsupportedParameter

NULL = b"null"


class Treatment(Enum):
    """What becomes of a parameter."""

    PASS = "pass"  # noqa: S105 - not a password
    """Goes out as it came: it does not change what the call can cost at most."""
    PRICE = "price"
    """Is in the size of the hold."""
    OURS = "ours"
    """Is written anew: the model's name, the limit, the way of delivery."""
    DROP = "drop"
    """Has no effect on an answer, and is left out."""
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Only:
    """Passed on with one of these values, refused with any other."""

    values: tuple[Any, ...]
    treatment: Treatment = Treatment.PASS


Fields: TypeAlias = "Mapping[str, Fields | None]"
"""The fields of an object. Under one that is an object too, and as well known, stand its own; None: anything."""


@dataclass(frozen=True, slots=True)
class Known:
    """If it is an object, one of which every field is known. Another field may cost something, and is refused."""

    fields: Fields
    treatment: Treatment = Treatment.PASS


Rule = Treatment | Only | Known
PASS, PRICE, OURS, DROP, REFUSE = Treatment.PASS, Treatment.PRICE, Treatment.OURS, Treatment.DROP, Treatment.REFUSE


def filter_parameters(fields: Mapping[str, msgspec.Raw], rules: Mapping[str, Rule]) -> dict[str, bytes]:
    """The fields that go out as they came. A field that is null counts as absent.

    Raises UnsupportedParameter, naming the first that is refused or unknown, itself or in an object that is known.
    """
    passed: dict[str, bytes] = {}
    for name, value in fields.items():
        rule = rules.get(name, REFUSE)
        raw = bytes(value)
        if raw == NULL:
            continue
        if not isinstance(rule, Treatment):
            check_value(name, msgspec.json.decode(raw), rule)
            rule = rule.treatment
        if rule is REFUSE:
            raise refusal(name)
        if rule is PASS or rule is PRICE:
            passed[name] = raw
    return passed


def check_value(name: str, value: Any, rule: Only | Known) -> None:
    """Raises UnsupportedParameter for another value than the rule knows, or for a field in it that it does not."""
    if isinstance(rule, Known):
        _check_fields(name, value, rule.fields)
    elif value not in rule.values:
        raise refusal(name)


def _check_fields(place: str, value: Any, known: Fields) -> None:
    """Whether it is an object at all is for others to say."""
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if inner is None:
            continue
        if name not in known:
            raise refusal(f"{place}.{name}")
        if (fields := known[name]) is not None:
            _check_fields(f"{place}.{name}", inner, fields)


def refusal(name: str) -> UnsupportedParameter:
    """Names the parameter, as far as it can be a name."""
    return UnsupportedParameter(_refused(name), parameter=name[:60])


def unsayable(option: str) -> UnsayableOption:
    """Names an option of ours that a wire has no word for."""
    return UnsayableOption(_refused(option), parameter=option)


def _refused(name: str) -> str:
    shown = name if name.isascii() and name.isprintable() and len(name) <= 60 else "This parameter"
    return f"{shown} is not supported here, or not with this value."
