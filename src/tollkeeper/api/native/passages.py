"""Finds the passages that a request to /ai/* is to be answered from."""

from tollkeeper.api.dependencies import Services
from tollkeeper.api.native.parsed_request import AnyRequest, ParsedRequest
from tollkeeper.api.native.schemas import RetrievalOptions
from tollkeeper.documents.parsing.splitting_size import MAX_CHUNK_CHARACTERS
from tollkeeper.documents.retriever import Retrieval, key_for_question
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.principal import Principal
from tollkeeper.retrieval.models import UseKind
from tollkeeper.retrieval.search import Passage
from tollkeeper.telemetry.trace_context import join_trace

SURFACE = "retrieve"
"""The surface of the charges for the vectors of questions that are asked with a call."""
ESTIMATED_PASSAGE = Passage("", "x" * 200, 0, "x" * MAX_CHUNK_CHARACTERS, None)
"""The largest passage, apart from the bytes of its characters."""


async def find_passages(
    services: Services, caller: Principal, surface: str, parsed: ParsedRequest[AnyRequest]
) -> list[Passage]:
    """The relevant passages for the last message. For an estimate, nothing is searched: as many of the largest ones as
    there may be.

    Raises UnsupportedParameter where documents are off, NotFound for a document that the caller cannot see, and what a
    call raises.
    """
    options = parsed.request.retrieve
    if not isinstance(options, RetrievalOptions):
        options = RetrievalOptions()
    if not services.retriever.is_on:
        detail = "retrieve is not supported here: the operator has not set TOLLKEEPER_EMBEDDING_MODEL."
        raise UnsupportedParameter(detail, parameter="retrieve")
    if surface == "estimate":
        return [ESTIMATED_PASSAGE] * options.top_k
    keyed, places = parsed.keyed_request, []
    if keyed is not None:
        places.append((UseKind.RESPONSE, keyed.key))
    elif services.gateway.cached.may_keep(caller, wanted=parsed.request.cache):
        places.append((UseKind.CACHE, ""))
    wanted = Retrieval(parsed.messages[-1].text, options.top_k, options.min_score, tuple(options.documents))
    with services.call_events.record(caller, SURFACE, join_trace(())) as record:
        key = key_for_question(keyed)
        found = await services.retriever.retrieve(record, SURFACE, wanted, key, places, serves=surface)
    return list(found.passages)
