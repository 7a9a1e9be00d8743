"""What a request counts for besides its user: the tags that its headers name, and the group; or its body, the group."""

import re
from collections.abc import Iterable
from dataclasses import replace

from tollkeeper.api.dependencies import Services
from tollkeeper.errors import InvalidRequest, UnsupportedParameter
from tollkeeper.principal import GROUP_NAME_PATTERN, Principal
from tollkeeper.tags import NO_TAGS, override_tags, parse_tags

GROUP_HEADER = b"x-tollkeeper-group"
TAGS_HEADER = b"x-tollkeeper-tags"
_HEADERS = (GROUP_HEADER, TAGS_HEADER)
_GROUP_NAME = re.compile(GROUP_NAME_PATTERN.encode())

Headers = Iterable[tuple[bytes, bytes]]


async def attributed(services: Services, caller: Principal, headers: Headers) -> Principal:
    """The caller, with the group and the tags that the headers name, to make a call. New values of tags are noted.

    Raises InvalidRequest, TagRefused, DatabaseUnavailable.
    """
    named = attribute(caller, headers)
    if named.tags is not caller.tags:
        await services.tag_values.admit(named)
    return named


def attribute(caller: Principal, headers: Headers) -> Principal:
    """The caller, with the group and the tags that the headers name. Whether the user is a member, and whether the tags
    are declared, the ledger decides. The tags of an API key override those of the headers.

    Raises InvalidRequest for what cannot be the name of a group, TagRefused for what cannot be tags.
    """
    named = [header for header in headers if header[0] in _HEADERS]
    if not named:
        return caller
    groups = [value for name, value in named if name == GROUP_HEADER]
    tags = [value for name, value in named if name == TAGS_HEADER]
    if len(groups) > 1 or (groups and not _GROUP_NAME.fullmatch(groups[0])):
        raise InvalidRequest("X-Tollkeeper-Group is the name of one group: 1 to 64 letters, digits, '.', '_' and '-'.")
    return replace(
        caller,
        group=groups[0].decode() if groups else caller.group,
        tags=override_tags(parse_tags(tags), by=caller.tags or NO_TAGS) if tags else caller.tags,
    )


def attribution_of(headers: Headers) -> bytes:
    """What is part of a request's fingerprint: the same request for another group or with other tags is another one."""
    return b"".join(
        b"\0" + (b"" if name == GROUP_HEADER else b"tags\0") + value for name, value in headers if name in _HEADERS
    )


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
