"""Anthropic, and whoever speaks its messages wire.

A request that came on that wire goes out as it came, with the output limit spliced in last. Wire format: Claude API
reference, "Messages"; `dialects/messages` reads and writes it.
"""

from tollkeeper.chat import Completion
from tollkeeper.dialects import messages
from tollkeeper.dialects.parameters import refusal
from tollkeeper.dialects.sse import Splitter
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.providers.base import CallInput, Model, PreparedCall, Wire
from tollkeeper.providers.http_common import (
    ProviderStream,
    TokenCounting,
    body_of,
    opened,
    reading,
    refuse_sampling,
    shape_of_request,
    texts_of,
)
from tollkeeper.providers.transport import Transport

OFFICIAL_URL = "https://api.anthropic.com"
API_VERSION = "2023-06-01"
PATH = "/v1/messages"
LIMIT_NAME = "max_tokens"


class AnthropicProvider(TokenCounting):
    """Asked with an API key, or without one, with a bearer token.

    `timeout_s` bounds a whole call that is not streamed. Claude's vocabulary is not public: tokens are counted with the
    best at hand, o200k_base, and that only where no usage is reported. What holds a quota is the bound in bytes.
    """

    def __init__(
        self,
        *,
        api_key: str = "",
        auth_token: str = "",
        base_url: str = OFFICIAL_URL,
        timeout_s: float,
        name: str = "anthropic",
    ) -> None:
        self.name = name
        credentials = {"x-api-key": api_key} if api_key else {"Authorization": f"Bearer {auth_token}"}
        headers = {"anthropic-version": API_VERSION, **credentials}
        self._transport = Transport(base_url.rstrip("/").removesuffix("/v1"), headers, timeout_s=timeout_s)

    def prepare(self, model: Model, question: CallInput, *, stream: bool = False) -> PreparedCall:
        raw = question.raw
        ours: dict[str, object] = {"model": model.upstream_name} | ({"stream": True} if stream else {})
        if raw is not None and raw.wire is Wire.MESSAGES:
            refuse_sampling(model, raw.fields, messages.SAMPLING)
            body, tail = body_of(raw, ours, LIMIT_NAME)
            thinks = "thinking" in raw.fields and messages.thinks(raw.fields["thinking"])
            return PreparedCall(
                model, body, tail, raw.input_size, texts_of(question), Wire.MESSAGES, raw=True, thinks=thinks
            )
        if raw is not None and raw.wire is Wire.EMBEDDINGS:
            raise UnsupportedParameter("This model makes no embeddings.", parameter="model")
        if question.choices > 1:
            raise refusal("n")
        request = question.request
        document = messages.write_request(request, model.upstream_name)
        refuse_sampling(model, document, messages.SAMPLING)
        body, tail = opened(document | ours, LIMIT_NAME)
        thinks = request.options.effort not in {None, "none"}
        return PreparedCall(
            model, body, tail, shape_of_request(request), texts_of(question), Wire.MESSAGES, thinks=thinks
        )

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        answer = await self._transport.post(PATH, call.limited_to(max_output))
        with reading():
            completion = messages.read_answer(answer)
        return completion._replace(raw=answer) if call.raw else completion

    def stream(self, call: PreparedCall, max_output: int) -> ProviderStream:
        answer = self._transport.stream(PATH, call.limited_to(max_output))
        return ProviderStream(answer, Splitter(), messages.EventReader(), raw=call.raw)

    async def close(self) -> None:
        await self._transport.close()
