"""OpenAI, and other servers that implement its APIs: chat completions and, where they have them, responses, embeddings.

The output limit is spliced into the finished body, so that the body is serialised once, before the reservation that
decides the limit. Wire formats: OpenAI API reference; `dialects/` reads and writes them.
"""

import re

from tollkeeper import errors
from tollkeeper.chat import Completion
from tollkeeper.dialects import chat, embeddings, responses
from tollkeeper.dialects.sse import Splitter
from tollkeeper.providers import tokenizer
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, Wire
from tollkeeper.providers.http_common import (
    NO_KEY,
    ProviderStream,
    TokenCounting,
    encode_document,
    encode_raw,
    input_size_of,
    input_texts,
    is_below,
    reading_answer,
    refuse_sampling,
    require_chat_request,
)
from tollkeeper.providers.kind import ConfiguredProvider, ProviderKind, ProviderOptions
from tollkeeper.providers.transport import Transport, status_error
from tollkeeper.settings import Settings

OFFICIAL_HOST = "https://api.openai.com"
ALL_WIRES = frozenset({Wire.CHAT, Wire.RESPONSES, Wire.EMBEDDINGS})
COMMON_WIRES = frozenset({Wire.CHAT, Wire.EMBEDDINGS})
"""The wires that OpenAI-compatible servers usually implement."""
LIST_TIMEOUT_S = 30
MODEL_NAMES = re.compile(r"(ft:)?(gpt-|o\d|chatgpt-|text-embedding-)")

_MAX_TOKENS_MODELS = re.compile(r"gpt-(3|4)|chatgpt-")
_MAX_COMPLETION_TOKENS_MODELS = re.compile(r"o\d|gpt-[5-9]")
_DIALECTS = {Wire.CHAT: chat, Wire.RESPONSES: responses}


class OpenAIProvider(TokenCounting):
    """A provider with OpenAI's APIs. Raw requests on one of its `wires` are sent raw, all other input on `wire`.

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

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        if call_input.raw is not None and call_input.raw.wire in self._wires:
            return self._prepare_raw(model, call_input, call_input.raw, stream=stream)
        chat_request = require_chat_request(call_input)
        document = _DIALECTS[self._wire].write_request(chat_request, model.upstream_name)
        refuse_sampling(model, document, chat.SAMPLING)
        document |= self._overrides(model, self._wire, stream=stream)
        body, tail = encode_document(document, self._limit_name(model, self._wire))
        return PreparedCall(model, body, tail, input_size_of(chat_request), input_texts(call_input), self._wire)

    def _prepare_raw(self, model: Model, call_input: CallInput, raw: RawRequest, *, stream: bool) -> PreparedCall:
        refuse_sampling(model, raw.fields, chat.SAMPLING)
        limit_name = None if raw.wire is Wire.EMBEDDINGS else self._limit_name(model, raw.wire)
        body, tail = encode_raw(raw, self._overrides(model, raw.wire, stream=stream), limit_name)
        return PreparedCall(model, body, tail, raw.input_size, input_texts(call_input), raw.wire, raw=True)

    def _overrides(self, model: Model, wire: Wire, *, stream: bool) -> dict[str, object]:
        overrides: dict[str, object] = {"model": model.upstream_name}
        if wire is not Wire.EMBEDDINGS:
            overrides["store"] = False
        if stream:
            overrides["stream"] = True
            if wire is Wire.CHAT:
                overrides["stream_options"] = {"include_usage": True}
        return overrides

    def _limit_name(self, model: Model, wire: Wire) -> str:
        """OpenAI's newer models accept only `max_completion_tokens`; compatible servers know `max_tokens`."""
        if wire is Wire.RESPONSES:
            return "max_output_tokens"
        if model.limit_name is not None:
            return model.limit_name
        name = model.upstream_name
        official = self._transport.base_url.startswith(OFFICIAL_HOST)
        if _MAX_COMPLETION_TOKENS_MODELS.match(name) or (official and not _MAX_TOKENS_MODELS.match(name)):
            return "max_completion_tokens"
        return "max_tokens"

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        assert prepared.wire is not None
        answer = await self._transport.post(f"/{prepared.wire}", prepared.body_with_limit(max_output))
        with reading_answer():
            if prepared.wire is Wire.EMBEDDINGS:
                completion = embeddings.read_answer(answer)
            else:
                completion = _DIALECTS[prepared.wire].read_answer(answer)
        return completion._replace(raw=answer) if prepared.raw else completion

    def stream(self, prepared: PreparedCall, max_output: int) -> ProviderStream:
        assert prepared.wire is not None
        answer = self._transport.stream(f"/{prepared.wire}", prepared.body_with_limit(max_output))
        dialect = _DIALECTS[prepared.wire]
        return ProviderStream(
            answer, Splitter(), dialect.StreamReader(), raw=prepared.raw, read_answer=dialect.read_answer
        )

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        if prepared.input_size.images:
            return None
        return await tokenizer.bound(prepared.model.upstream_name, prepared.body_with_limit(0))

    async def list_models(self) -> list[str]:
        """The models that the API key may use, as the provider lists them. Raises ProviderError."""
        from openai import APIConnectionError, APIStatusError, AsyncOpenAI  # takes 25 MB, and no call needs it

        base_url = self._transport.base_url
        async with AsyncOpenAI(
            api_key=self._api_key, base_url=base_url, max_retries=0, timeout=LIST_TIMEOUT_S
        ) as client:
            try:
                return sorted([model.id async for model in client.models.list()])
            except APIStatusError as error:
                raise status_error(error.status_code) from None
            except APIConnectionError:
                raise errors.ProviderUnavailable from None

    async def close(self) -> None:
        await self._transport.close()


def make_openai(settings: Settings) -> OpenAIProvider:
    """The provider of OPENAI_API_KEY. Raises ConfigurationError without that key."""
    if settings.openai_api_key is None:
        raise errors.ConfigurationError("OPENAI_API_KEY is not set, so OpenAI cannot be called. Set it.")
    return OpenAIProvider(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        timeout_s=settings.timeout_seconds,
    )


def _from_settings(settings: Settings) -> ConfiguredProvider | None:
    if settings.openai_api_key is None:
        return None
    return ConfiguredProvider(
        make_openai(settings), "openai", default_model=settings.openai_model, listed_names=MODEL_NAMES
    )


def _from_catalog(options: ProviderOptions, settings: Settings) -> ConfiguredProvider:
    """A server other than OpenAI is expected to implement only the COMMON_WIRES."""
    base_url = options.base_url or f"{OFFICIAL_HOST}/v1"
    official = is_below(OFFICIAL_HOST, base_url)
    wires = options.wires or (ALL_WIRES if official else COMMON_WIRES)
    wire = options.wire or (Wire.CHAT if Wire.CHAT in wires else Wire.RESPONSES)
    provider = OpenAIProvider(
        api_key=options.api_key or NO_KEY,
        base_url=base_url,
        timeout_s=settings.timeout_seconds,
        name=options.name,
        wires=wires | {wire},
        wire=wire,
    )
    return ConfiguredProvider(provider, "openai" if official else None)


KIND = ProviderKind(
    "openai",
    _from_catalog,
    _from_settings,
    catalog_fields=frozenset({"base_url", "api_key_env", "wires", "wire"}),
    model_names=MODEL_NAMES,
)
