"""What the providers with an HTTP API share: encoding requests, reading answers and streams, counting tokens."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import orjson

from tollkeeper import errors
from tollkeeper.chat import (
    ChatRequest,
)
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.images import DATA_PREFIX, data_bytes
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.messages.documents import PDF_PAGE_TOKENS
from tollkeeper.dialects.parameters import unsupported
from tollkeeper.providers import tokenizer
from tollkeeper.providers.base import BilledFailure, Model, PreparedCall, RawRequest
from tollkeeper.providers.transport import sent_error
from tollkeeper.worker_thread import pause, run_by_size

NO_KEY = "none"
"""The API key for servers that need none."""


def encode_raw(
    raw: RawRequest, overrides: dict[str, object], limit_name: str | None, extra: Mapping[str, bytes]
) -> tuple[bytes, bytes | None]:
    """A raw request with `extra` fields and the `overrides` as JSON, in two parts: before the output limit, and after
    it.

    The second part is None without a `limit_name`.
    """
    fields = [orjson.dumps(name) + b":" + value for name, value in raw.fields.items()]
    fields += [orjson.dumps(name) + b":" + value for name, value in extra.items()]
    fields += [orjson.dumps(name) + b":" + orjson.dumps(value) for name, value in overrides.items()]
    if limit_name is None:
        return b"{%b}" % b",".join(fields), None
    return b'{%b,"%b":' % (b",".join(fields), limit_name.encode()), b"}"


def encode_document(document: dict[str, object], limit_name: str) -> tuple[bytes, bytes]:
    """A document as JSON, in two parts: before the output limit, and after it."""
    pause()
    return orjson.dumps(document)[:-1] + b',"' + limit_name.encode() + b'":', b"}"


def is_below(origin: str, url: str) -> bool:
    """Whether `url` is at `origin` or below it."""
    return f"{url}/".startswith(f"{origin}/")


def refuse_sampling(model: Model, names: Iterable[str], sampling: frozenset[str]) -> None:
    """Raises UnsupportedParameter for a name among the `sampling` parameters that the model does not accept."""
    if model.sampling is None:
        return
    for name in names:
        if name in sampling and name not in model.sampling:
            raise unsupported(name)


def input_size_of(chat_request: ChatRequest) -> InputSize:
    """The counts that bound the input tokens of a ChatRequest."""
    pictures = chat_request.images
    image_bytes = sum(data_bytes(picture.url) for picture in pictures if picture.url.startswith(DATA_PREFIX))
    return InputSize(len(chat_request.messages), len(pictures), image_bytes, bool(chat_request.options.tools))


@contextmanager
def reading_answer(answer: bytes, sent: bytes) -> Iterator[None]:
    """Turns the errors of a dialect, which reads the `answer` to what was `sent`, into ProviderErrors."""
    try:
        yield
    except MalformedAnswer as error:
        raise errors.ProviderBadResponse from error
    except ProviderSentError as error:
        raise failure(error, answer, sent) from None


def failure(error: ProviderSentError, body: bytes, sent: bytes) -> errors.ProviderError:
    """The error that the provider sent in this body: a BilledFailure if it reports a usage other than 0."""
    read = sent_error(body, sent)
    if error.usage is None or not any(error.usage):
        return read
    billed = BilledFailure(error.usage)
    billed.upstream = read.upstream
    return billed


TEMPLATE_TOKENS_PER_MESSAGE, TEMPLATE_TOKENS_PER_CALL = 4, 3
"""The tokens that a chat template adds, as OpenAI's cookbook counts them ("How to count tokens with tiktoken"). Other
providers do not publish theirs; they are of about the same size.
"""


class TokenCounting:
    """The counting methods of a provider. Only OpenAI's vocabularies are public: for other models, the counts are
    estimates.
    """

    async def bound_input(self, prepared: PreparedCall) -> int | None:
        return None

    async def count_input(self, prepared: PreparedCall) -> int:
        template = TEMPLATE_TOKENS_PER_MESSAGE * prepared.input_size.messages + TEMPLATE_TOKENS_PER_CALL
        images = prepared.input_size.images * prepared.model.image_tokens
        texts = await run_by_size(len(prepared.body), prepared.texts)
        documents = prepared.input_size.pdf_pages * PDF_PAGE_TOKENS
        return await tokenizer.count(prepared.model.upstream_name, texts) + template + images + documents

    async def count_output(self, text: str) -> int:
        return await tokenizer.count(tokenizer.DEFAULT_ENCODING, (text,), output=True)

    async def truncate_output(self, text: str, max_tokens: int) -> str:
        return await tokenizer.truncate(tokenizer.DEFAULT_ENCODING, text, max_tokens)
