"""The query parameters of an act. One that is ignored would change what is acted on: so none is."""

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute

from tollkeeper.errors import InvalidRequest

_READING = frozenset({"GET", "HEAD"})


def require_known_parameters(request: Request) -> None:
    """Raise InvalidRequest for a query parameter that the endpoint of an act does not have, and for one that is there
    twice. Endpoints that read take any.
    """
    if request.method in _READING or not request.query_params:
        return
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known, sent = list(dict.fromkeys(_names(route.dependant))), [name for name, _ in request.query_params.multi_items()]
    if not set(sent) <= set(known):
        names = f"Known parameters: {', '.join(known)}" if known else "This endpoint has none"
        raise InvalidRequest(f"Unknown query parameter. {names}.")
    if len(set(sent)) < len(sent):
        raise InvalidRequest("A query parameter is there twice. Send each once.")


def _names(dependant: Any) -> Iterator[str]:
    """The query parameters of an endpoint and its dependencies."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for one in dependant.dependencies:
        yield from _names(one)
