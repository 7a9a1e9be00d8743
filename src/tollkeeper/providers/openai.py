"""OpenAI, and whoever speaks its chat-completions wire: the bytes moved by aiohttp over kept connections.

One request is sent once: no retry, no redirect. The output limit is spliced into the finished body, so that the body is
serialised once, before the reserve that decides the limit.
Wire format: OpenAI API reference, "Create chat completion".
"""

import re
from typing import TYPE_CHECKING, Any, TypeGuard

import aiohttp
import msgspec
import orjson
from yarl import URL

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Usage
from tollkeeper.providers import tokenizer
from tollkeeper.providers.base import PreparedCall

if TYPE_CHECKING:
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

CONNECT_S = 5.0
TEMPLATE_PER_MESSAGE, TEMPLATE_PER_CALL = 4, 3
"""What the chat template adds, as OpenAI's cookbook counts it ("How to count tokens with tiktoken")."""
MOST_ANSWER_BYTES = 16 * 1024 * 1024
OFFICIAL_HOST = "https://api.openai.com"
MOST_TOKENS = 2**53
"""Larger numbers in a usage report are not counts."""

_OLD_MODELS = re.compile(r"gpt-(3|4)|chatgpt-")
_NEW_MODELS = re.compile(r"o\d|gpt-[5-9]")


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    """What metering and the native surface need of a chat completion; everything else is skipped unread."""

    choices: list[_Choice]
    usage: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


class OpenAIProvider:
    """`timeout_s` bounds a whole call; connecting has its own, shorter limit."""

    name = "openai"

    def __init__(self, *, api_key: str, base_url: str, timeout_s: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._url = URL(f"{self._base_url}/chat/completions")
        self._api_key = api_key
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "tollkeeper",
        }
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(CONNECT_S, timeout_s / 2))
        self._session: aiohttp.ClientSession | None = None

    def prepare(self, request: ChatRequest) -> PreparedCall:
        body: CompletionCreateParamsNonStreaming = {
            "model": request.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],  # type: ignore[misc]
            "store": False,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        texts = tuple(turn.content for turn in request.messages)
        opened = orjson.dumps(body)[:-1] + f',"{self._limit_name(request.model)}":'.encode()
        return PreparedCall(opened, len(opened), len(texts), (request.model, *texts))

    def _limit_name(self, model: str) -> str:
        """OpenAI's newer models take only `max_completion_tokens`; compatible servers know `max_tokens`."""
        official = self._base_url.startswith(OFFICIAL_HOST)
        if _NEW_MODELS.match(model) or (official and not _OLD_MODELS.match(model)):
            return "max_completion_tokens"
        return "max_tokens"

    async def complete(self, call: PreparedCall, max_output: int) -> Completion:
        body = call.body + b"%d}" % max_output
        try:
            async with self._open().post(
                self._url, data=body, headers=self._headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise _refusal(response)
                return _completion(await _read(response))
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise errors.ProviderUnavailable from error
        except TimeoutError as error:
            raise errors.ProviderTimeout from error
        except aiohttp.InvalidURL as error:
            raise errors.ProviderUnavailable from error
        except aiohttp.ClientResponseError as error:
            raise errors.ProviderBadResponse from error
        except (aiohttp.ClientError, OSError) as error:
            raise errors.ProviderInterrupted from error

    async def count_input(self, call: PreparedCall) -> int:
        model, *texts = call.texts
        template = TEMPLATE_PER_MESSAGE * call.messages + TEMPLATE_PER_CALL
        return await tokenizer.count(model, tuple(texts)) + template

    async def count_output(self, text: str) -> int:
        return await tokenizer.count(tokenizer.BEST_AT_HAND, (text,))

    async def cut(self, text: str, tokens: int) -> str:
        return await tokenizer.cut(tokenizer.BEST_AT_HAND, text, tokens)

    async def list_models(self) -> list[str]:
        """The models that the key may use, as the provider lists them. Raises ProviderError."""
        from openai import APIConnectionError, APIStatusError, AsyncOpenAI  # 25 MB, and not on the way of a call

        async with AsyncOpenAI(api_key=self._api_key, base_url=self._base_url, max_retries=0, timeout=30) as client:
            try:
                return sorted([model.id async for model in client.models.list()])
            except APIStatusError as error:
                raise status_error(error.status_code) from None
            except APIConnectionError:
                raise errors.ProviderUnavailable from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        """One session for all calls, made on the loop that uses it. As many connections as there are calls."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


def status_error(status: int, retry_after: str | None = None) -> errors.ProviderError:
    """What a status other than 200 means. Only an odd success can have been billed."""
    if 200 <= status < 300:
        return errors.ProviderBadResponse()
    if status in {401, 403}:
        return errors.ProviderAuthFailed()
    if status == 429:
        seconds = int(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
        return errors.ProviderRateLimited(retry_after_s=min(seconds, 3600) if seconds is not None else None)
    if 400 <= status < 500:
        return errors.ProviderRejected()
    return errors.ProviderFailed()


def _refusal(response: aiohttp.ClientResponse) -> errors.ProviderError:
    response.close()
    return status_error(response.status, response.headers.get("Retry-After"))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, if it is one we can read: not encoded, not larger than an answer can be."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise errors.ProviderBadResponse
    length = response.content_length
    if length is not None and length <= MOST_ANSWER_BYTES:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MOST_ANSWER_BYTES:
            raise errors.ProviderBadResponse
    return bytes(body)


def _completion(body: bytes) -> Completion:
    try:
        answer = _decode(body)
        first = answer.choices[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError, RecursionError) as error:
        raise errors.ProviderBadResponse from error
    text = first.message.content if first.message.content is not None else first.message.refusal or ""
    return Completion(text, first.finish_reason or "stop", _usage(answer.usage))


def _usage(reported: Any) -> Usage | None:
    """The usage as reported, or None when there is none or it is no usage."""
    if not isinstance(reported, dict):
        return None
    details = reported.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    sent, received, cached = reported.get("prompt_tokens"), reported.get("completion_tokens"), cached or 0
    if not (_is_count(sent) and _is_count(received) and _is_count(cached)) or cached > sent:
        return None
    return Usage(sent, received, cached)


def _is_count(number: Any) -> TypeGuard[int]:
    return type(number) is int and 0 <= number < MOST_TOKENS
