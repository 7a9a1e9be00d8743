"""The treatment of each parameter of a wire format: passed on, priced, rewritten, dropped or refused.

A parameter that multiplies the cost is priced into the hold. One whose cost has no bound, or that stores something at
the provider, is refused. A parameter without a rule is extra: it is refused too, unless the operator allows it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

from tollkeeper.dialects.dropped import Dropped
from tollkeeper.dialects.parameter_hints import HINTS
from tollkeeper.errors import InvalidRequest, UnsupportedParameter, UntranslatableOption
from tollkeeper.worker_thread import pause

NULL = b"null"
_PARAMETER = re.compile(r"at `\$\.(\w+)")
"""The name of a top-level parameter in a message of msgspec's."""


class Treatment(Enum):
    """What is done with a parameter."""

    PASS = "pass"  # noqa: S105 - not a password
    """Sent as it came: it does not change what the call can cost at most."""
    PRICE = "price"
    """Sent as it came, and included in the size of the hold."""
    OURS = "ours"
    """Written by Tollkeeper: the model's name, the output limit, the delivery options."""
    DROP = "drop"
    """Not sent: it has no effect on the answer."""
    OMIT = "omit"
    """Not sent, although it could have had an effect: a header of the response names it."""
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Only:
    """The parameter may have one of these values; any other is refused."""

    values: tuple[Any, ...]
    treatment: Treatment = Treatment.PASS


FieldTree: TypeAlias = "Mapping[str, FieldTree | None]"
"""The known fields of an object. A field's value is the tree of its own fields, or None if it may be anything."""


@dataclass(frozen=True, slots=True)
class KnownFields:
    """If the parameter is an object, it may have these fields; any other is refused, because it may cost something."""

    fields: FieldTree
    treatment: Treatment = Treatment.PASS


Rule = Treatment | Only | KnownFields
PASS, PRICE, OURS, DROP, REFUSE = Treatment.PASS, Treatment.PRICE, Treatment.OURS, Treatment.DROP, Treatment.REFUSE
OMIT = Treatment.OMIT


def filter_parameters(
    fields: Mapping[str, msgspec.Raw], rules: Mapping[str, Rule], dropped: Dropped | None = None
) -> dict[str, bytes]:
    """The fields to be sent as they came. A field that is null counts as absent. `dropped` receives omitted names.

    Raises UnsupportedParameter, naming the first parameter, or field of a known object, that is refused or unknown.
    """
    passed: dict[str, bytes] = {}
    for name, value in fields.items():
        pause()
        rule = rules.get(name, REFUSE)
        raw = bytes(value)
        if raw == NULL:
            continue
        if not isinstance(rule, Treatment):
            check_value(name, msgspec.json.decode(raw), rule)
            rule = rule.treatment
        if rule is REFUSE:
            raise unsupported(name)
        if rule is PASS or rule is PRICE:
            passed[name] = raw
        elif rule is OMIT and dropped is not None:
            dropped.add(name)
    return passed


NO_EXTRA: Mapping[str, bytes] = MappingProxyType({})


def split_extra(
    fields: Mapping[str, msgspec.Raw], rules: Mapping[str, Rule]
) -> tuple[Mapping[str, msgspec.Raw], Mapping[str, bytes]]:
    """The fields with a rule, and those without one, each as JSON."""
    names = fields.keys() - rules.keys()
    if not names:
        return fields, NO_EXTRA
    known = {name: value for name, value in fields.items() if name not in names}
    return known, {name: bytes(value) for name, value in fields.items() if name in names}


def check_value(name: str, value: Any, rule: Only | KnownFields) -> None:
    """Raises UnsupportedParameter for a value, or for a field in it, that the rule does not allow."""
    if isinstance(rule, KnownFields):
        _check_fields(name, value, rule.fields)
    elif not any(type(value) is type(allowed) and value == allowed for allowed in rule.values):  # 0 is not false
        raise unsupported(name)


def _check_fields(path: str, value: Any, known: FieldTree) -> None:
    """A value that is not an object passes: its type is checked elsewhere, or by the provider."""
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if inner is None:
            continue
        if name not in known:
            raise unsupported(f"{path}.{name}")
        if (fields := known[name]) is not None:
            _check_fields(f"{path}.{name}", inner, fields)


def unsupported(name: str) -> UnsupportedParameter:
    """An error that names the parameter. The name comes from the caller, so it is shortened, and printed if ASCII."""
    return UnsupportedParameter(_detail(name), parameter=name[:60])


def untranslatable(option: str) -> UntranslatableOption:
    """An error that names an option of ours that the provider's wire format cannot express."""
    return UntranslatableOption(_detail(option), parameter=option)


def refused_extra(name: str) -> UnsupportedParameter:
    """An error that names an extra parameter which is not sent to the model's provider."""
    detail = f"This provider does not take {_shown(name) or 'this parameter'}. Leave it out, or ask the operator."
    return UnsupportedParameter(detail, parameter=name[:60])


def _detail(name: str) -> str:
    if (hint := HINTS.get(name)) is not None:
        return f"{name} is not supported here, or not with this value. {hint}"
    return f"{_shown(name) or 'This parameter'} is not supported here, or not with this value."


def _shown(name: str) -> str | None:
    return name if name.isascii() and name.isprintable() and len(name) <= 60 else None


def malformed(name: str) -> InvalidRequest:
    """The error for a parameter that does not have the expected type or fields."""
    return InvalidRequest(f"{name} does not have the shape that this endpoint accepts.", parameter=name)


def malformed_parameter(error: msgspec.ValidationError, default: str) -> str:
    """The name of the top-level parameter that does not have the expected type; `default` if the error names none."""
    found = _PARAMETER.search(str(error))
    return found[1] if found else default


def read_stop(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop sequences. An empty one counts as none: forms of clients send the field when it was left empty."""
    return tuple(filter(None, [stop] if isinstance(stop, str) else stop or []))
