"""The kinds of calls that are measured: their requests and the responses that are expected."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench import upstream
from bench.load import CheckedRequest, http_request

MODEL = "gpt-4o-mini"
SYSTEM_PROMPT = "You are a careful assistant. Answer in plain words, briefly, and never make anything up."
PROMPT = "Explain in one short sentence what a toll keeper does, and why nobody passes the gate twice on one coin."
BURST_PROMPT = f"{PROMPT} {upstream.BURST_MARK}"
MAX_TOKENS = 64

_QUOTA = b'"reserved":'
"""In every response of `/ai/query` and `/ai/stream`: the balance of the tightest quota."""
_NATIVE_BODY_PARTS = (upstream.ANSWER.encode(), b'"cost":%d,' % upstream.COST_TOKENS, _QUOTA)
_STREAM_PARTS = (*(text.encode() for text in upstream.STREAMED_TEXTS), b"data: [DONE]\n\n")
_NATIVE_STREAM_PARTS = (*_STREAM_PARTS, b'"cost":%d,' % upstream.STREAM_COST_TOKENS, _QUOTA)


@dataclass(frozen=True, slots=True)
class ChatApi:
    """A server's endpoint for OpenAI's chat completions.

    If `is_transparent`, its responses have the upstream's bytes; otherwise they only have the upstream's text.
    """

    path: str = "/v1/chat/completions"
    model: str = MODEL
    is_transparent: bool = True


class Workload(StrEnum):
    """One kind of call. The forwarder and peers always receive requests in the upstream's own format."""

    CALLS = "calls"
    CHAT = "chat"
    STREAMS = "streams"
    BURSTS = "bursts"
    NATIVE_STREAMS = "native-streams"
    NATIVE_BURSTS = "native-bursts"

    @property
    def is_stream(self) -> bool:
        return self not in (Workload.CALLS, Workload.CHAT)

    @property
    def is_burst(self) -> bool:
        return self in (Workload.BURSTS, Workload.NATIVE_BURSTS)

    @property
    def is_native(self) -> bool:
        """Whether Tollkeeper receives it on an endpoint of its own."""
        return self in (Workload.CALLS, Workload.NATIVE_STREAMS, Workload.NATIVE_BURSTS)

    @property
    def description(self) -> str:
        """The request to Tollkeeper, in a few words."""
        if not self.is_stream:
            return "/ai/query" if self.is_native else "/v1/chat/completions"
        return f"{'/ai/stream' if self.is_native else '/v1/chat/completions'}, {'burst' if self.is_burst else 'paced'}"

    @property
    def cost_tokens(self) -> int:
        """The cost of one call."""
        return upstream.STREAM_COST_TOKENS if self.is_stream else upstream.COST_TOKENS

    def make_native_request(self, token: str) -> CheckedRequest:
        """Returns one call of `/ai/query` or `/ai/stream`."""
        path = "/ai/stream" if self.is_stream else "/ai/query"
        request = native_request(token, path, BURST_PROMPT if self.is_burst else PROMPT)
        return CheckedRequest(request, _NATIVE_STREAM_PARTS if self.is_stream else _NATIVE_BODY_PARTS)

    def make_chat_request(self, token: str, api: ChatApi) -> CheckedRequest:
        """Returns one call in the upstream's own format."""
        prompt = BURST_PROMPT if self.is_burst else PROMPT
        messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": prompt}]
        body: dict[str, Any] = {"model": api.model, "messages": messages, "max_tokens": MAX_TOKENS}
        if self.is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        request = http_request("POST", api.path, token=token, body=body)
        if api.is_transparent:
            return CheckedRequest(request, body=upstream.STREAM if self.is_stream else upstream.COMPLETION)
        return CheckedRequest(request, _STREAM_PARTS if self.is_stream else (upstream.ANSWER.encode(),))


def native_request(token: str, path: str, prompt: str) -> bytes:
    """Returns the bytes of one `POST /ai/query` or `/ai/stream`."""
    return http_request("POST", path, token=token, body=native_body(prompt))


def native_body(prompt: str = PROMPT) -> dict[str, Any]:
    """Returns the body of such a request."""
    return {"prompt": prompt, "system_prompt": SYSTEM_PROMPT, "max_tokens": MAX_TOKENS}
