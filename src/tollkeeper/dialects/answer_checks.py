"""What the readers of all wire formats share: the errors that they raise, token counts, and the usage report."""

from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from tollkeeper.chat import InconsistentUsage, Usage, UsageReport

MAX_TOKEN_COUNT = 2**53
"""A larger number in a usage report is not a token count."""
MAX_COUNT_DIGITS = 16
UNTYPED_FLOAT = float
"""The `float_hook` of each decoder of usage reports: a number beyond a double, as 1e400, is infinity, which is not a
token count. Without the hook, the whole answer would be malformed.
"""


class MalformedAnswer(Exception):
    """The bytes are not an answer in this wire format."""


class TruncatedStream(Exception):
    """The stream ended before the answer was complete."""


class ProviderSentError(Exception):
    """The provider sent an error in place of an answer, or of its rest. Its text is neither logged nor passed on.

    `usage` is the usage that is reported with the error.
    """

    def __init__(self, usage: UsageReport | None = None) -> None:
        super().__init__()
        self.usage = usage


class _ErrorBody(msgspec.Struct):
    """The fields by which servers mark an error that they send with status 200, or tell it in another form."""

    error: Any = None
    object: Any = None
    type: Any = None
    usage: Any = None
    message: Any = None
    detail: Any = None
    code: Any = None


_decode_error_body = msgspec.json.Decoder(_ErrorBody, float_hook=UNTYPED_FLOAT).decode


ReadUsage = Callable[[Any], UsageReport | None]
"""Reads the usage in one wire format."""


def raise_unreadable(body: bytes, read_usage: ReadUsage) -> NoReturn:
    """Raises ProviderSentError if the body, which is no answer, is an error; else MalformedAnswer."""
    decoded = _read_error_body(body)
    if decoded.error is not None or decoded.object == "error" or decoded.type == "error":
        raise ProviderSentError(read_usage(decoded.usage))
    raise MalformedAnswer


def has_error(error: Any, *, has_answer: bool) -> bool:
    """Whether the field `error` marks an error. Some servers send an empty one beside each answer.

    `has_answer`: the body has something of an answer; without it, an empty error is one too.
    """
    return bool(error) or (error is not None and not has_answer)


def check_other_event(data: bytes) -> None:
    """Check an event that has nothing of an answer: a sign of life, unless it has a field that only errors have.

    Raises MalformedAnswer for such an event: it must not be passed on, because it may contain the text of an error.
    """
    decoded = _read_error_body(data)
    if decoded.message is not None or decoded.detail is not None or decoded.code is not None:
        raise MalformedAnswer


def is_sign_of_life(data: bytes) -> bool:
    """Whether data that no reader can read are a sign of life: a text that is no JSON, or a status of `code` 0.

    JSON that cannot be read may be a part of an answer, or an error; markup is the page of a proxy's error.
    """
    if not data.lstrip().startswith((b"{", b"[", b'"', b"<")):
        return True
    decoded = _read_error_body(data)
    is_status = type(decoded.code) is int and decoded.code == 0
    return is_status and not (decoded.error or decoded.detail or decoded.object == "error" or decoded.type == "error")


def raise_failure(usage: UsageReport | None, *, has_output: bool) -> NoReturn:
    """Raises the error for an answer that contains one: ProviderSentError with the usage that it reports.

    Raises MalformedAnswer where the answer has output but no usage: that output may be billed, and it is not known.
    """
    if usage is None and has_output:
        raise MalformedAnswer
    raise ProviderSentError(usage)


def raise_error_event(data: bytes, read_usage: ReadUsage) -> NoReturn:
    """Raises ProviderSentError for an event that its name marks as an error, whatever its data are."""
    raise ProviderSentError(read_usage(_read_error_body(data).usage))


def _read_error_body(body: bytes) -> _ErrorBody:
    """The body; an empty one if it cannot be read."""
    try:
        return _decode_error_body(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _ErrorBody()


def token_count(value: Any) -> int | None:
    """The value, if it is a number of tokens; None if it cannot be one.

    Some servers send counts as floats or as texts: `9.0` and `"9"` are 9.
    """
    if type(value) is not int:
        value = _whole_number(value)
    return value if value is not None and 0 <= value < MAX_TOKEN_COUNT else None


def _whole_number(value: Any) -> int | None:
    """The float or text as a whole number; None if it is none."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and len(value) <= MAX_COUNT_DIGITS and value.isascii() and value.isdigit():
        return int(value)
    return None


def usage_report(
    input_tokens: int | None,
    output_tokens: int | None,
    total: Any = None,
    cached: int | None = 0,
    cache_write: int | None = 0,
    reasoning: int = 0,
) -> UsageReport | None:
    """The report of these counts: a Usage if they agree with each other. None if no count is valid.

    `total` is the reported sum of input and output, if there is one. A total below the sum of its parts is ignored.
    """
    total_tokens = token_count(total)
    if input_tokens is output_tokens is total_tokens is None and not (cached or cache_write or reasoning):
        return None
    if input_tokens is not None and output_tokens is not None and cached is not None and cache_write is not None:
        adds_up = total is None or (total_tokens is not None and total_tokens <= input_tokens + output_tokens)
        if adds_up and cached + cache_write <= input_tokens and reasoning <= output_tokens:
            return Usage(input_tokens, output_tokens, cached, cache_write, reasoning)
    return InconsistentUsage(input_tokens, output_tokens, total_tokens, cached or 0, cache_write or 0, reasoning)
