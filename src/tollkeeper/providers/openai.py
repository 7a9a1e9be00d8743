"""OpenAI, and other servers that implement its APIs: chat completions and, where they have them, responses, embeddings.

`azure.py` is Azure's variant.

The output limit is spliced into the finished body, so that the body is serialised once, before the reservation that
decides the limit. Wire formats: OpenAI API reference; `dialects/` reads and writes them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion
from tollkeeper.dialects import chat, embeddings, moderations, responses
from tollkeeper.dialects.raw_history import clean_chat_messages, clean_input
from tollkeeper.dialects.sse import Splitter
from tollkeeper.providers import tokenizer
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, Wire
from tollkeeper.providers.extra_parameters import passed_extra
from tollkeeper.providers.history import (
    clean_history,
    encrypts_reasoning,
    is_of_openai,
    open_history,
    reasoning_field,
)
from tollkeeper.providers.http.choice import HttpOptions, http_options
from tollkeeper.providers.http_common import (
    NO_KEY,
    TokenCounting,
    encode_document,
    encode_raw,
    input_size_of,
    is_below,
    reading_answer,
    refuse_sampling,
)
from tollkeeper.providers.input_texts import input_texts
from tollkeeper.providers.kind import ConfiguredProvider, ProviderKind, ProviderOptions
from tollkeeper.providers.provider_stream import ProviderStream
from tollkeeper.providers.transport import Transport, status_error
from tollkeeper.settings import Settings

OFFICIAL_URL = "https://api.openai.com"
_HOSTS_WITH_STORE = re.compile(
    r"https://([a-z0-9-]+\.)*(api\.openai\.com|openai\.azure\.com|cognitiveservices\.azure\.com|services\.ai\.azure\.com)"
    r"(:443)?(/|$)",
    re.IGNORECASE,
)
"""The hosts that can store a chat completion. Stricter servers refuse the field `store`."""
ALL_WIRES = frozenset({Wire.CHAT, Wire.RESPONSES, Wire.EMBEDDINGS})
COMMON_WIRES = frozenset({Wire.CHAT, Wire.EMBEDDINGS})
"""The wires that OpenAI-compatible servers usually implement."""
LIST_TIMEOUT_S = 30
MODEL_NAMES = re.compile(r"(ft:)?(gpt-|o\d|chatgpt-|text-embedding-)")

_MAX_TOKENS_MODELS = re.compile(r"gpt-(3|4)|chatgpt-")
_MAX_COMPLETION_TOKENS_MODELS = re.compile(r"o\d|gpt-[5-9]")
_DIALECTS = {Wire.CHAT: chat, Wire.RESPONSES: responses}
_CLEANED = {Wire.CHAT: ("messages", clean_chat_messages), Wire.RESPONSES: ("input", clean_input)}
"""The field of a raw request with the earlier answers, and what cleans it."""
_Written = tuple[dict[str, object], ChatRequest, Callable[[], tuple[str, ...]]]
"""A translated request, the ChatRequest that it says, and its texts."""


class OpenAIProvider(TokenCounting):
    """A provider with OpenAI's APIs. Raw requests on one of its `wires` are sent raw, all other input on `wire`.

    `timeout_s` bounds a whole call that is not streamed. `knows_store`: the server knows the field `store` of a chat
    completion; None: as its host tells. A response is stored by default, so `store` is always sent on that wire.
    `knows_stream_options`: the server knows the field that requests the usage of a stream.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        timeout_s: float,
        http: HttpOptions | None = None,
        name: str = "openai",
        wires: frozenset[Wire] = ALL_WIRES,
        wire: Wire = Wire.CHAT,
        knows_store: bool | None = None,
        knows_stream_options: bool = True,
        key_header: tuple[str, str] = ("Authorization", "Bearer "),
    ) -> None:
        self.name = name
        self._api_key = api_key
        header, scheme = key_header
        self._transport = Transport(base_url, {header: scheme + api_key}, timeout_s=timeout_s, http=http)
        self._wires = wires
        self._wire = wire
        self._knows_store = _HOSTS_WITH_STORE.match(base_url) is not None if knows_store is None else knows_store
        self._knows_stream_options = knows_stream_options
        self._names_openai_models = is_below(OFFICIAL_URL, base_url)

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        if call_input.raw is not None and call_input.raw.wire in self._wires:
            return self._prepare_raw(model, call_input, call_input.raw, stream=stream)
        write = self._write_chat if self._wire is Wire.CHAT else self._write_responses
        document, chat_request, texts = write(model, call_input)
        refuse_sampling(model, document, chat.SAMPLING)
        document |= self._overrides(model, self._wire, stream=stream)
        body, tail = encode_document(document, self._limit_name(model, self._wire))
        return PreparedCall(model, body, tail, input_size_of(chat_request), texts, self._wire)

    def _write_chat(self, model: Model, call_input: CallInput) -> _Written:
        field = None if self._names_openai_models else reasoning_field(model, self._transport.base_url)
        chat_request, texts = open_history(model, call_input, frozenset({"extra"}), unsigned=field is not None)
        return chat.write_request(chat_request, model.upstream_name, field or ""), chat_request, texts

    def _write_responses(self, model: Model, call_input: CallInput) -> _Written:
        unsigned = not is_of_openai(model, self._transport.base_url)
        chat_request, texts = open_history(model, call_input, frozenset({"encrypted"}), unsigned=unsigned)
        document = responses.write_request(chat_request, model.upstream_name)
        if encrypts_reasoning(model):
            document["include"] = ["reasoning.encrypted_content"]
        return document, chat_request, texts

    def _prepare_raw(self, model: Model, call_input: CallInput, raw: RawRequest, *, stream: bool) -> PreparedCall:
        if (cleaned := _CLEANED.get(raw.wire)) is not None:
            verified = is_of_openai(model, self._transport.base_url)
            call_input = clean_history(call_input, *cleaned, verified=verified)
            raw = call_input.raw or raw
        refuse_sampling(model, raw.fields, chat.SAMPLING)
        limit_name = None if raw.wire is Wire.EMBEDDINGS else self._limit_name(model, raw.wire)
        extra = passed_extra(model, call_input)
        body, tail = encode_raw(raw, self._overrides(model, raw.wire, stream=stream), limit_name, extra)
        return PreparedCall(model, body, tail, raw.input_size, input_texts(call_input, extra), raw.wire, raw=True)

    def _overrides(self, model: Model, wire: Wire, *, stream: bool) -> dict[str, object]:
        overrides: dict[str, object] = {"model": model.upstream_name}
        if wire is Wire.RESPONSES or (wire is Wire.CHAT and self._knows_store):
            overrides["store"] = False
        if stream:
            overrides["stream"] = True
            if wire is Wire.CHAT and self._knows_stream_options:
                overrides["stream_options"] = {"include_usage": True}
        return overrides

    def _limit_name(self, model: Model, wire: Wire) -> str:
        """OpenAI's newer models accept only `max_completion_tokens`; compatible servers know `max_tokens`."""
        if wire is Wire.RESPONSES:
            return "max_output_tokens"
        if model.limit_name is not None:
            return model.limit_name
        name = model.upstream_name
        is_newer = self._names_openai_models and not _MAX_TOKENS_MODELS.match(name)
        if is_newer or _MAX_COMPLETION_TOKENS_MODELS.match(name):
            return "max_completion_tokens"
        return "max_tokens"

    def _path(self, prepared: PreparedCall) -> str:
        return f"/{prepared.wire}"

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        assert prepared.wire is not None
        body = prepared.body_with_limit(max_output)
        answer = await self._transport.post(self._path(prepared), body)
        with reading_answer(answer, body):
            if prepared.wire is Wire.EMBEDDINGS:
                completion = embeddings.read_answer(answer)
            else:
                completion = _DIALECTS[prepared.wire].read_answer(answer, prepared.signer)
        return completion._replace(raw=answer) if prepared.raw else completion

    def stream(self, prepared: PreparedCall, max_output: int) -> ProviderStream:
        assert prepared.wire is not None
        answer = self._transport.stream(self._path(prepared), prepared.body_with_limit(max_output))
        dialect = _DIALECTS[prepared.wire]
        read_answer = partial(dialect.read_answer, signer=prepared.signer)
        reader = dialect.StreamReader(prepared.signer)
        return ProviderStream(answer, Splitter(), reader, raw=prepared.raw, read_answer=read_answer)

    async def moderate(self, model: str, texts: Sequence[str]) -> list[Mapping[str, float]]:
        """The scores of each text by OpenAI's moderation endpoint, by category. Raises ProviderError."""
        body = moderations.write_request(model, texts)
        answer = await self._transport.post("/moderations", body)
        with reading_answer(answer, body):
            return moderations.read_answer(answer, len(texts))

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


def wires_of(options: ProviderOptions, default: frozenset[Wire]) -> tuple[frozenset[Wire], Wire]:
    """The wires of a provider in the catalog, and the one for calls that arrive on none of them."""
    wires = options.wires or default
    wire = options.wire or (Wire.CHAT if Wire.CHAT in wires else Wire.RESPONSES)
    return wires | {wire}, wire


def make_openai(settings: Settings) -> OpenAIProvider:
    """The provider of OPENAI_API_KEY. Raises ConfigurationError without that key."""
    if settings.openai_api_key is None:
        raise errors.ConfigurationError("OPENAI_API_KEY is not set, so OpenAI cannot be called. Set it.")
    return OpenAIProvider(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        timeout_s=settings.timeout_seconds,
        http=http_options(settings),
    )


def _from_settings(settings: Settings) -> ConfiguredProvider | None:
    if settings.openai_api_key is None:
        return None
    return ConfiguredProvider(
        make_openai(settings), "openai", default_model=settings.openai_model, listed_names=MODEL_NAMES
    )


def _from_catalog(options: ProviderOptions, settings: Settings) -> ConfiguredProvider:
    """A server other than OpenAI is expected to implement only the COMMON_WIRES."""
    base_url = options.base_url or f"{OFFICIAL_URL}/v1"
    official = is_below(OFFICIAL_URL, base_url)
    wires, wire = wires_of(options, ALL_WIRES if official else COMMON_WIRES)
    provider = OpenAIProvider(
        api_key=options.key_or(NO_KEY),
        base_url=base_url,
        timeout_s=settings.timeout_seconds,
        http=http_options(settings),
        name=options.name,
        wires=wires,
        wire=wire,
        knows_store=options.knows_store,
        knows_stream_options=options.knows_stream_options,
    )
    return ConfiguredProvider(provider, "openai" if official else None)


KIND = ProviderKind(
    "openai",
    _from_catalog,
    _from_settings,
    settings_with_key=lambda settings, key: settings.model_copy(update={"openai_api_key": key}),
    catalog_fields=frozenset({"base_url", "api_key_env", "wires", "wire", "knows_store", "knows_stream_options"}),
    passes_extra=True,
    model_names=MODEL_NAMES,
)
