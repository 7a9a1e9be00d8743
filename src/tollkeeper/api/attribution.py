"""What a request counts for besides its user: the group that its header names."""

import re
from collections.abc import Iterable
from dataclasses import replace

from tollkeeper.errors import InvalidRequest
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
