"""What is asked of the servers, and what a good answer to it is."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from bench import upstream
from bench.load import Question, http_request

MODEL = "gpt-4o-mini"
SYSTEM = "You are a careful assistant. Answer in plain words, briefly, and never make anything up."
PROMPT = "Explain in one short sentence what a toll keeper does, and why nobody passes the gate twice on one coin."
MAX_TOKENS = 64

_MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
_CHAT = {"model": MODEL, "messages": _MESSAGES, "max_tokens": MAX_TOKENS}
_STREAM = {**_CHAT, "stream": True, "stream_options": {"include_usage": True}}

_NATIVE_NEEDLES = (upstream.ANSWER.encode(), b'"cost":%d,' % upstream.COST, b'"reserved":')
"""In every native answer: the upstream's text, the exact cost, and how the tightest quota stands."""


class Work(StrEnum):
    """One kind of call. A forwarder is always asked in the upstream's own words."""

    CALLS = "calls"
    CHAT = "chat"
    STREAMS = "streams"

    @property
    def streamed(self) -> bool:
        return self is Work.STREAMS

    @property
    def question(self) -> str:
        """What Tollkeeper is asked, in a few words."""
        match self:
            case Work.CALLS:
                return "POST /ai/query"
            case Work.CHAT:
                return "POST /v1/chat/completions"
            case Work.STREAMS:
                return f"POST /v1/chat/completions, stream: true, {upstream.DELTAS} chunks"

    @property
    def noun(self) -> str:
        return "streams" if self.streamed else "calls"

    @property
    def cost(self) -> int:
        """Of one call, in tokens."""
        return upstream.STREAM_COST if self.streamed else upstream.COST

    def asked(self, token: str, *, metered: bool) -> Question:
        """One such call."""
        if metered and self is Work.CALLS:
            return Question(native(token), _NATIVE_NEEDLES)
        body: Mapping[str, Any] = _STREAM if self.streamed else _CHAT
        request = http_request("POST", "/v1/chat/completions", token=token, body=body)
        return Question(request, body=upstream.STREAM if self.streamed else upstream.COMPLETION)


def native(token: str, **more: int) -> bytes:
    """One call to `POST /ai/query`."""
    body = {"prompt": PROMPT, "system_prompt": SYSTEM, "max_tokens": MAX_TOKENS, **more}
    return http_request("POST", "/ai/query", token=token, body=body)
