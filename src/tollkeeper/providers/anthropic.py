"""Anthropic, and other servers that implement its Messages API.

A raw request on that wire is sent with its fields unchanged, the output limit spliced in last, and the betas that
change no price. Wire format: Claude API reference, "Messages"; `dialects/messages` reads and writes it.
"""

import re
from functools import partial

from tollkeeper.chat import Completion
from tollkeeper.dialects import messages
from tollkeeper.dialects.raw_history import clean_messages
from tollkeeper.dialects.signatures import Kind
from tollkeeper.dialects.sse import Splitter
from tollkeeper.providers.base import CallInput, Model, PreparedCall, Wire
from tollkeeper.providers.extra_parameters import passed_extra
from tollkeeper.providers.history import clean_history, open_history, verifies_thinking
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
from tollkeeper.providers.transport import Transport
from tollkeeper.settings import Settings

OFFICIAL_URL = "https://api.anthropic.com"
API_VERSION = "2023-06-01"
PATH = "/v1/messages"
LIMIT_NAME = "max_tokens"
MODEL_NAMES = re.compile(r"claude-")
SIGNATURES: frozenset[Kind] = frozenset({"thinking", "redacted"})


class AnthropicProvider(TokenCounting):
    """A provider with Anthropic's Messages API. It is called with the API key, or without one with the bearer token.

    `timeout_s` bounds a whole call that is not streamed. Claude's vocabulary is not public: tokens are counted by
    o200k_base, and only where the provider reports no usage. Quotas are held by the bound in bytes.
    """

    def __init__(
        self,
        *,
        api_key: str = "",
        auth_token: str = "",
        base_url: str = OFFICIAL_URL,
        timeout_s: float,
        http: HttpOptions | None = None,
        name: str = "anthropic",
    ) -> None:
        self.name = name
        credential = {"x-api-key": api_key} if api_key else {"Authorization": f"Bearer {auth_token}"}
        headers = {"anthropic-version": API_VERSION, **credential}
        self._transport = Transport(base_url.rstrip("/").removesuffix("/v1"), headers, timeout_s=timeout_s, http=http)

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        if call_input.raw is not None and call_input.raw.wire is Wire.MESSAGES:
            verified = verifies_thinking(model)
            call_input = clean_history(call_input, "messages", clean_messages, verified=verified)
        raw = call_input.raw
        overrides: dict[str, object] = {"model": model.upstream_name} | ({"stream": True} if stream else {})
        if raw is not None and raw.wire is Wire.MESSAGES:
            refuse_sampling(model, raw.fields, messages.SAMPLING)
            extra = passed_extra(model, call_input)
            body, tail = encode_raw(raw, overrides, LIMIT_NAME, extra)
            texts = input_texts(call_input, extra)
            thinks = "thinking" in raw.fields and messages.enables_thinking(raw.fields["thinking"])
            return PreparedCall(
                model, body, tail, raw.input_size, texts, Wire.MESSAGES, raw=True, thinks=thinks, headers=raw.headers
            )
        chat_request, texts = open_history(model, call_input, SIGNATURES, unsigned=False)
        document = messages.write_request(chat_request, model.upstream_name)
        refuse_sampling(model, document, messages.SAMPLING)
        body, tail = encode_document(document | overrides, LIMIT_NAME)
        thinks = chat_request.options.effort not in {None, "none"}
        return PreparedCall(model, body, tail, input_size_of(chat_request), texts, Wire.MESSAGES, thinks=thinks)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        body = prepared.body_with_limit(max_output)
        answer = await self._transport.post(PATH, body, prepared.headers)
        with reading_answer(answer, body):
            completion = messages.read_answer(answer, prepared.signer)
        return completion._replace(raw=answer) if prepared.raw else completion

    def stream(self, prepared: PreparedCall, max_output: int) -> ProviderStream:
        answer = self._transport.stream(PATH, prepared.body_with_limit(max_output), prepared.headers)
        read_answer = partial(messages.read_answer, signer=prepared.signer)
        reader = messages.StreamReader(prepared.signer)
        return ProviderStream(answer, Splitter(), reader, raw=prepared.raw, read_answer=read_answer)

    async def close(self) -> None:
        await self._transport.close()


def _from_settings(settings: Settings) -> ConfiguredProvider | None:
    key, token = settings.anthropic_api_key, settings.anthropic_auth_token
    if key is None and token is None:
        return None
    provider = AnthropicProvider(
        api_key=key.get_secret_value() if key is not None else "",
        auth_token=token.get_secret_value() if token is not None else "",
        base_url=settings.anthropic_base_url,
        timeout_s=settings.timeout_seconds,
        http=http_options(settings),
    )
    return ConfiguredProvider(provider, "anthropic", default_model=settings.anthropic_model, listed_names=MODEL_NAMES)


def _from_catalog(options: ProviderOptions, settings: Settings) -> ConfiguredProvider:
    base_url = options.base_url or OFFICIAL_URL
    provider = AnthropicProvider(
        api_key=options.key_or(NO_KEY),
        base_url=base_url,
        timeout_s=settings.timeout_seconds,
        http=http_options(settings),
        name=options.name,
    )
    return ConfiguredProvider(provider, "anthropic" if is_below(OFFICIAL_URL, base_url) else None)


KIND = ProviderKind(
    "anthropic",
    _from_catalog,
    _from_settings,
    settings_with_key=lambda settings, key: settings.model_copy(
        update={"anthropic_api_key": key, "anthropic_auth_token": None}
    ),
    catalog_fields=frozenset({"base_url", "api_key_env"}),
    passes_extra=True,
    model_names=MODEL_NAMES,
)
