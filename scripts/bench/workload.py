"""The kinds of calls that are measured: their requests and the responses that are expected."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from bench import upstream
from bench.load import CheckedRequest, http_request

MODEL = "gpt-4o-mini"
SYSTEM_PROMPT = "You are a careful assistant. Answer in plain words, briefly, and never make anything up."
PROMPT = "Explain in one short sentence what a toll keeper does, and why nobody passes the gate twice on one coin."
MAX_TOKENS = 64

_MESSAGES = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": PROMPT}]
_CHAT_BODY = {"model": MODEL, "messages": _MESSAGES, "max_tokens": MAX_TOKENS}
_STREAM_BODY = {**_CHAT_BODY, "stream": True, "stream_options": {"include_usage": True}}

_NATIVE_BODY_PARTS = (upstream.ANSWER.encode(), b'"cost":%d,' % upstream.COST_TOKENS, b'"reserved":')
"""In every response of `/ai/query`: the upstream's text, the exact cost, and the balance of the tightest quota."""


class Workload(StrEnum):
    """One kind of call. The forwarder always receives requests in the upstream's own format."""

    CALLS = "calls"
    CHAT = "chat"
    STREAMS = "streams"

    @property
    def is_stream(self) -> bool:
        return self is Workload.STREAMS

    @property
    def description(self) -> str:
        """The request to Tollkeeper, in a few words."""
        match self:
            case Workload.CALLS:
                return "POST /ai/query"
            case Workload.CHAT:
                return "POST /v1/chat/completions"
            case Workload.STREAMS:
                return f"POST /v1/chat/completions, stream: true, {upstream.DELTAS} chunks"

    @property
    def noun(self) -> str:
        return "streams" if self.is_stream else "calls"

    @property
    def cost_tokens(self) -> int:
        """The cost of one call."""
        return upstream.STREAM_COST_TOKENS if self.is_stream else upstream.COST_TOKENS

    def make_request(self, token: str, *, metered: bool) -> CheckedRequest:
        """Returns one call: to Tollkeeper if `metered`, else to the forwarder."""
        if metered and self is Workload.CALLS:
            return CheckedRequest(native_request(token), _NATIVE_BODY_PARTS)
        body: Mapping[str, Any] = _STREAM_BODY if self.is_stream else _CHAT_BODY
        request = http_request("POST", "/v1/chat/completions", token=token, body=body)
        return CheckedRequest(request, body=upstream.STREAM if self.is_stream else upstream.COMPLETION)


def native_request(token: str, **fields: int) -> bytes:
    """Returns the bytes of one `POST /ai/query`, with additional fields in its body."""
    body = {"prompt": PROMPT, "system_prompt": SYSTEM_PROMPT, "max_tokens": MAX_TOKENS, **fields}
    return http_request("POST", "/ai/query", token=token, body=body)
