"""Pseudonyms for the names that callers give their users and caches.

All requests reach a provider from one organisation, whatever their tenant, so such a name must not be forwarded.
"""

from hashlib import sha256
from typing import Any

from tollkeeper.errors import InvalidRequest
from tollkeeper.principal import Principal


def pseudonym(caller: Principal, name: Any, parameter: str) -> str:
    """A pseudonym of a name, different for each caller: 64 characters, which every wire format accepts.

    So two callers never share a user or a prompt cache at the provider. Raises InvalidRequest if the name is no string.
    """
    if not isinstance(name, str):
        raise InvalidRequest(f"{parameter} must be a string.", parameter=parameter)
    return sha256(f"{caller.tenant_id}/{caller.user_id}/{name}".encode()).hexdigest()
