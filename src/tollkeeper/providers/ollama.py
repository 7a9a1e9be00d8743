"""Ollama, by its own chat API: a server that mostly runs on the local network, needs no key and charges nothing.

Wire format: Ollama API reference; `dialects/ollama` reads and writes it.
"""

import orjson

from tollkeeper.chat import Completion
from tollkeeper.dialects import ollama
from tollkeeper.dialects.ndjson import Splitter
from tollkeeper.dialects.parameters import unsupported
from tollkeeper.providers.base import CallInput, Model, PreparedCall
from tollkeeper.providers.history import open_history
from tollkeeper.providers.http.choice import HttpOptions, http_options
from tollkeeper.providers.http_common import TokenCounting, input_size_of, reading_answer
from tollkeeper.providers.kind import FREE, ConfiguredProvider, ProviderKind, ProviderOptions
from tollkeeper.providers.provider_stream import ProviderStream
from tollkeeper.providers.transport import Transport
from tollkeeper.settings import Settings

DEFAULT_URL = "http://127.0.0.1:11434"
PATH = "/api/chat"


class OllamaProvider(TokenCounting):
    """An Ollama server. `timeout_s` bounds a whole call that is not streamed. `api_key` is for a proxy before it."""

    def __init__(
        self,
        *,
        base_url: str = DEFAULT_URL,
        timeout_s: float,
        http: HttpOptions | None = None,
        api_key: str = "",
        name: str = "ollama",
    ) -> None:
        self.name = name
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._transport = Transport(base_url, headers, timeout_s=timeout_s, http=http)

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        """The output limit is in `options`, the last field. `stream` is always sent, because its default is true."""
        chat_request, texts = open_history(model, call_input, frozenset(), unsigned=True)
        document = {"stream": stream} | ollama.write_request(chat_request, model.upstream_name)
        options = document["options"]
        for name in options:
            if model.sampling is not None and name != "stop" and name not in model.sampling:
                raise unsupported(name)
        body = orjson.dumps(document).removesuffix(b"}}") + (b"," if options else b"") + b'"num_predict":'
        return PreparedCall(model, body, b"}}", input_size_of(chat_request), texts)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        body = prepared.body_with_limit(max_output)
        answer = await self._transport.post(PATH, body)
        with reading_answer(answer, body):
            return ollama.read_answer(answer)

    def stream(self, prepared: PreparedCall, max_output: int) -> ProviderStream:
        answer = self._transport.stream(PATH, prepared.body_with_limit(max_output))
        return ProviderStream(answer, Splitter(), ollama.StreamReader(), raw=False)

    async def close(self) -> None:
        await self._transport.close()


def _from_settings(settings: Settings) -> ConfiguredProvider | None:
    if settings.ollama_base_url is None:
        return None
    provider = OllamaProvider(
        base_url=settings.ollama_base_url, timeout_s=settings.timeout_seconds, http=http_options(settings)
    )
    return ConfiguredProvider(provider, price=FREE, default_model=settings.ollama_model)


def _from_catalog(options: ProviderOptions, settings: Settings) -> ConfiguredProvider:
    provider = OllamaProvider(
        base_url=options.base_url or DEFAULT_URL,
        timeout_s=settings.timeout_seconds,
        http=http_options(settings),
        api_key=options.key_or(""),
        name=options.name,
    )
    return ConfiguredProvider(provider, price=FREE)


KIND = ProviderKind("ollama", _from_catalog, _from_settings, catalog_fields=frozenset({"base_url", "api_key_env"}))
