"""What a request counts for besides its user: the group that its header or its body names."""

import re
from collections.abc import Iterable
from dataclasses import replace

from tollkeeper.errors import InvalidRequest, UnsupportedParameter
from tollkeeper.principal import GROUP_NAME_PATTERN, Principal

GROUP_HEADER = b"x-tollkeeper-group"
_GROUP_NAME = re.compile(GROUP_NAME_PATTERN.encode())


def attribute(caller: Principal, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
    """The caller, with the group that the headers name. Whether the user is a member, the ledger decides.

    Raises InvalidRequest for what cannot be the name of a group.
    """
    named = [value for name, value in headers if name == GROUP_HEADER]
    if not named:
        return caller
    if len(named) > 1 or not _GROUP_NAME.fullmatch(named[0]):
        raise InvalidRequest("X-Tollkeeper-Group is the name of one group: 1 to 64 letters, digits, '.', '_' and '-'.")
    return replace(caller, group=named[0].decode())


def name_group(caller: Principal, group: str | None) -> Principal:
    """The caller, with the group that the body of the request names, if it names one.

    Raises UnsupportedParameter if the header names another one.
    """
    if group is None or group == caller.group:
        return caller
    if caller.group is not None:
        raise UnsupportedParameter(
            f"group is {group}, but the header X-Tollkeeper-Group names {caller.group}. Send one of them.",
            parameter="group",
        )
    return replace(caller, group=group)
