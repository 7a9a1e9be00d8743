"""OpenAI, and whoever speaks its wires: chat completions, and where it has them, responses and embeddings.

The output limit is spliced into the finished body, so that the body is serialised once, before the reserve that
decides the limit. Wire formats: OpenAI API reference; `dialects/` reads and writes them.
"""

import re

from tollkeeper import errors
from tollkeeper.chat import Completion
from tollkeeper.dialects import chat, embeddings, responses
from tollkeeper.dialects.parameters import refusal
from tollkeeper.dialects.sse import Splitter
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.providers import tokenizer
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, Wire
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
from tollkeeper.providers.transport import Transport, status_error

OFFICIAL_HOST = "https://api.openai.com"
ALL_WIRES = frozenset({Wire.CHAT, Wire.RESPONSES, Wire.EMBEDDINGS})

_OLD_MODELS = re.compile(r"gpt-(3|4)|chatgpt-")
_NEW_MODELS = re.compile(r"o\d|gpt-[5-9]")
_DIALECTS = {Wire.CHAT: chat, Wire.RESPONSES: responses}


class OpenAIProvider(TokenCounting):
    """`wires` are those it speaks; `wire` is the one for questions that did not come on one of them.

    `timeout_s` bounds a whole call that is not streamed.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        timeout_s: float,
        name: str = "openai",
        wires: frozenset[Wire] = ALL_WIRES,
        wire: Wire = Wire.CHAT,
    ) -> None:
        self.name = name
        self._api_key = api_key
        self._transport = Transport(base_url, {"Authorization": f"Bearer {api_key}"}, timeout_s=timeout_s)
        self._wires = wires
        self._wire = wire

    def prepare(self, model: Model, question: CallInput, *, stream: bool = False) -> PreparedCall:
        raw = question.raw
        if raw is not None and raw.wire in self._wires:
            return self._as_it_came(model, question, raw, stream=stream)
        if raw is not None and raw.wire is Wire.EMBEDDINGS:
            raise UnsupportedParameter("This model makes no embeddings.", parameter="model")
        if question.choices > 1:
            raise refusal("n")
        request = question.request
        document = _DIALECTS[self._wire].write_request(request, model.upstream_name)
        refuse_sampling(model, document, chat.SAMPLING)
        document |= self._ours(model, self._wire, stream=stream)
        body, tail = opened(document, self._limit_name(model, self._wire))
        input_size = shape_of_request(request)
        return PreparedCall(model, body, tail, input_size, texts_of(question), self._wire)

    def _as_it_came(self, model: Model, question: CallInput, raw: RawRequest, *, stream: bool) -> PreparedCall:
        refuse_sampling(model, raw.fields, chat.SAMPLING)
        limit_name = None if raw.wire is Wire.EMBEDDINGS else self._limit_name(model, raw.wire)
        body, tail = body_of(raw, self._ours(model, raw.wire, stream=stream), limit_name)
        return PreparedCall(model, body, tail, raw.input_size, texts_of(question), raw.wire, raw=True)

    def _ours(self, model: Model, wire: Wire, *, stream: bool) -> dict[str, object]:
        ours: dict[str, object] = {"model": model.upstream_name}
        if wire is not Wire.EMBEDDINGS:
            ours["store"] = False
        if stream:
            ours["stream"] = True
            if wire is Wire.CHAT:
                ours["stream_options"] = {"include_usage": True}
        return ours

    def _limit_name(self, model: Model, wire: Wire) -> str:
        """OpenAI's newer models take only `max_completion_tokens`; compatible servers know `max_tokens`."""
        if wire is Wire.RESPONSES:
            return "max_output_tokens"
        if model.limit_name is not None:
            return model.limit_name
        official = self._transport.base_url.startswith(OFFICIAL_HOST)
        if _NEW_MODELS.match(model.upstream_name) or (official and not _OLD_MODELS.match(model.upstream_name)):
            return "max_completion_tokens"
        return "max_tokens"

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        assert call.wire is not None
        answer = await self._transport.post(f"/{call.wire}", call.limited_to(max_output))
        with reading():
            if call.wire is Wire.EMBEDDINGS:
                completion = embeddings.read_answer(answer)
            else:
                completion = _DIALECTS[call.wire].read_answer(answer)
        return completion._replace(raw=answer) if call.raw else completion

    def stream(self, call: PreparedCall, max_output: int) -> ProviderStream:
        assert call.wire is not None
        answer = self._transport.stream(f"/{call.wire}", call.limited_to(max_output))
        return ProviderStream(answer, Splitter(), _DIALECTS[call.wire].EventReader(), raw=call.raw)

    async def bound_input(self, call: PreparedCall) -> int | None:
        return None if call.input_size.images else await tokenizer.bound(call.model.upstream_name, call.limited_to(0))

    async def list_models(self) -> list[str]:
        """The models that the key may use, as the provider lists them. Raises ProviderError."""
        from openai import APIConnectionError, APIStatusError, AsyncOpenAI  # 25 MB, and not on the way of a call

        base_url = self._transport.base_url
        async with AsyncOpenAI(api_key=self._api_key, base_url=base_url, max_retries=0, timeout=30) as client:
            try:
                return sorted([model.id async for model in client.models.list()])
            except APIStatusError as error:
                raise status_error(error.status_code) from None
            except APIConnectionError:
                raise errors.ProviderUnavailable from None

    async def close(self) -> None:
        await self._transport.close()
