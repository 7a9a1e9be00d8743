"""How callers' own names go out: all of them reach a provider from one organisation, whatever their tenant."""

from hashlib import sha256
from typing import Any

from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Principal


def pseudonym(caller: Principal, given: Any, parameter: str) -> str:
    """What stands for a name that this caller has given, and for nobody else's: 64 characters, which every wire takes.

    So no caller is taken for another's user, nor finds out through a cache what another has asked. Raises
    InvalidRequest, naming the parameter, for what is no text.
    """
    if not isinstance(given, str):
        raise InvalidRequest(f"{parameter} must be a string.", parameter=parameter)
    return sha256(f"{caller.tenant_id}/{caller.user_id}/{given}".encode()).hexdigest()
