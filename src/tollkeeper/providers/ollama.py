"""Ollama, by its own chat wire: a server that mostly runs next door, needs no key and bills nobody.

Wire format: Ollama API reference; `dialects/ollama` reads and writes it.
"""

import orjson

from tollkeeper.chat import Completion
from tollkeeper.dialects import ollama
from tollkeeper.dialects.ndjson import Splitter
from tollkeeper.dialects.parameters import refusal
from tollkeeper.errors import UnsupportedParameter
from tollkeeper.providers.base import CallInput, Model, PreparedCall, Wire
from tollkeeper.providers.http_common import ProviderStream, TokenCounting, reading, shape_of_request, texts_of
from tollkeeper.providers.transport import Transport

USUAL_URL = "http://127.0.0.1:11434"
PATH = "/api/chat"


class OllamaProvider(TokenCounting):
    """`timeout_s` bounds a whole call that is not streamed. `api_key` is for a server behind a guard."""

    def __init__(self, *, base_url: str = USUAL_URL, timeout_s: float, api_key: str = "", name: str = "ollama") -> None:
        self.name = name
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._transport = Transport(base_url, headers, timeout_s=timeout_s)

    def prepare(self, model: Model, question: CallInput, *, stream: bool = False) -> PreparedCall:
        """The limit stands in `options`, the last of the body. Streaming is said either way: it is the default."""
        if question.raw is not None and question.raw.wire is Wire.EMBEDDINGS:
            raise UnsupportedParameter("This model makes no embeddings.", parameter="model")
        if question.choices > 1:
            raise refusal("n")
        request = question.request
        document = {"stream": stream} | ollama.write_request(request, model.upstream_name)
        options = document["options"]
        for name in options:
            if model.sampling is not None and name != "stop" and name not in model.sampling:
                raise refusal(name)
        body = orjson.dumps(document).removesuffix(b"}}") + (b"," if options else b"") + b'"num_predict":'
        return PreparedCall(model, body, b"}}", shape_of_request(request), texts_of(question))

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        answer = await self._transport.post(PATH, call.limited_to(max_output))
        with reading():
            return ollama.read_answer(answer)

    def stream(self, call: PreparedCall, max_output: int) -> ProviderStream:
        answer = self._transport.stream(PATH, call.limited_to(max_output))
        return ProviderStream(answer, Splitter(), ollama.LineReader(), raw=False)

    async def close(self) -> None:
        await self._transport.close()
