"""Reads the error that a provider sends, in any wire format: what it says is at fault, and its own code and text.

The wordings are those of the public API references and sources of the providers and servers named beside them.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from tollkeeper import errors

MAX_BYTES = 64 * 1024
"""A longer body is not decoded: its begin is its text."""
MAX_TEXT = 4_096
"""Characters of an error's text that are searched."""
MAX_OBJECTS, MAX_DEPTH = 64, 8
"""How much of a document is searched. The errors of providers have one to four objects."""
MAX_PARAMETER = 100
MAX_TOKENS = 10**9
"""A larger number is not a size in tokens."""

_INNER = ("error", "errors", "response", "choices", "detail", "metadata", "innererror", "inner_error", "raw")
"""The fields below which an error can stand. Other fields can hold the caller's own content."""
_TEXTS = ("message", "msg", "error", "detail", "raw")
_CODES = ("code", "type", "status")

_OVERFLOW_CODES = frozenset(
    {
        "context_length_exceeded",  # OpenAI, Azure, Groq
        "exceed_context_size_error",  # llama.cpp
        "context_window_exceeded",
        "model_max_prompt_tokens_exceeded",  # GitHub Models
    }
)
_OVERFLOW = re.compile(
    r"(?:prompt|input|request) (?:is )?too long(?! to)"  # Anthropic, Bedrock, Ollama
    r"|exceed(?:s|ed)? (?:the |this |its |your )?(?:model'?s? )?(?:max(?:imum)? |available )?(?:\w+ )?"
    r"context[ _](?:length|limit|size|window)"  # OpenAI, Anthropic, llama.cpp, Ollama
    r"|context[ _]window[ _]?exceeded"  # LiteLLM
    r"|maximum (?:context|prompt) length"  # OpenAI, Azure, DeepSeek, vLLM, OpenRouter, Mistral, xAI
    r"|(?:model's|model’s) (?:maximum )?context length"  # vLLM, SGLang
    r"|longer than the (?:maximum model length|model's context length)"  # vLLM, SGLang
    r"|input token count.{0,40}exceeds? the maximum number of tokens"  # Gemini
    r"|too large for model with \d+ maximum context"  # Mistral
    r"|exceeded model token limit"  # Moonshot
    r"|range of input length should be"  # DashScope
    r"|maximum length \d{6,}",  # OpenAI, of one text; shorter limits are those of names and ids
    re.IGNORECASE,
)
_FILTER_CODES = frozenset(
    {
        "content_filter",  # Azure
        "content_policy_violation",  # OpenAI
        "responsibleaipolicyviolation",  # Azure
        "data_inspection_failed",  # DashScope
        "datainspectionfailed",
    }
)
_FILTERED = re.compile(
    r"content management policy|content[ _]filter(?:ing)? policy|blocked by (?:the |our )?content filter"
    r"|ContentPolicyViolation|flagged as potentially violating|input was flagged|violat\w+ (?:our|the) usage polic"
    r"|content exists risk|inappropriate content|rejected (?:as a result of|by) (?:our|the) safety system",
    re.IGNORECASE,
)  # Azure, Anthropic, LiteLLM, OpenAI, OpenRouter, DeepSeek, DashScope
_TOO_LARGE_CODES = frozenset({"request_too_large"})
_TOO_LARGE = re.compile(r"(?:payload|body) (?:size )?(?:exceeds|is too large|too large)", re.IGNORECASE)

_SYSTEM_ROLE = re.compile(
    r"unexpected role ['\"]?system|role ['\"]?system['\"]?.{0,60}(?:not supported|unsupported)", re.IGNORECASE
)
SYSTEM_ROLE_REFUSED = "Unexpected role 'system': this model does not take it as an input message role."
"""Claude Code sends such a message, and leaves it out after an error that has these words."""

_NUMBER = r"(\d[\d,_]{0,14})"
_BOTH_SIZES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_NUMBER} tokens? > {_NUMBER}",  # Anthropic
        rf"has {_NUMBER} input tokens \({_NUMBER} > {_NUMBER} - {_NUMBER}\)",  # vLLM: input, output, window, input
        rf"{_NUMBER} \+ {_NUMBER} > {_NUMBER}",  # Anthropic: input, output, window
        rf"passed {_NUMBER} input tokens and requested {_NUMBER} output tokens.{{0,60}}?length is (?:only )?{_NUMBER}",
    )
)
_SIZE = re.compile(
    rf"(?:requested (?:about |a total of )?|resulted in |contains |passed |needs |request \(|input \(|token count \("
    rf"|token count of |input length \(|prompt \(length |too long: ){_NUMBER}",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    rf"(?:length|limit|size|window)(?: of)?(?: is)?(?: only)?(?::)? ?\(?{_NUMBER}|allowed \({_NUMBER}"
    rf"|limit of {_NUMBER}|model with {_NUMBER} maximum context",
    re.IGNORECASE,
)
_PATH = re.compile(r"[A-Za-z_]\w*(?:\[\d+\]|\.\w+|\[\w+\])*")
_PATH_IN_TEXT = re.compile(r"(?:^|['\"* .])(tools[.\[][\w.\[\]]{1,90})")
"""Anthropic and Gemini name the field only in the text."""
_SCHEMA_IN_TEXT = re.compile(r"invalid (?:json )?schema for function|function parameters|input_schema", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_]\w*")
_WORDS_OF_PROVIDERS = frozenset({"custom", "function"})
"""Names in paths for the kind of a tool. The request itself need not have them as fields."""
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class ErrorBody(NamedTuple):
    """A provider's error. `codes` are its own, in lower case; `sizes` are (tokens, context window)."""

    codes: tuple[str, ...] = ()
    text: str = ""
    parameter: str | None = None
    sizes: tuple[int | None, int | None] = (None, None)

    @property
    def code(self) -> str:
        """The first code that is a word. The HTTP status is known anyway."""
        return next((code for code in self.codes if not code.isdigit() and code not in {"error", "failed"}), "")


_decode = msgspec.json.Decoder(float_hook=float).decode


def read_error(body: bytes) -> ErrorBody:
    """Read an error. The text of a body that is not JSON is the body."""
    try:
        document = _decode(body[: MAX_BYTES + 1])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ErrorBody(text=body[:MAX_TEXT].decode("utf-8", "replace"))
    codes: list[str] = []
    texts: list[str] = [document] if isinstance(document, str) else []
    parameter, sizes = None, ErrorBody().sizes
    for one in _objects(document):
        codes += [str(one[name]).lower() for name in _CODES if _is_code(one.get(name))]
        texts += [one[name] for name in _TEXTS if isinstance(one.get(name), str)]
        parameter = parameter or _parameter(one)
        if type(size := one.get("n_prompt_tokens")) is int and type(window := one.get("n_ctx")) is int:  # llama.cpp
            sizes = size, window
    return ErrorBody(tuple(codes), " ".join(texts)[:MAX_TEXT], parameter, sizes)


def rejection(error: ErrorBody, sent: bytes, *, body_too_large: bool = False) -> errors.ProviderRejected | None:
    """The error for a request that the provider rejects, if its reason may be sent to the caller; else None.

    The result has nothing of the provider's text but numbers, and names of fields that the request `sent` has.
    `body_too_large`: the provider says so by its status.
    """
    codes = frozenset(error.codes)
    if body_too_large or codes & _TOO_LARGE_CODES or _TOO_LARGE.search(error.text):
        return errors.RequestTooLarge()
    if codes & _OVERFLOW_CODES or _OVERFLOW.search(error.text):
        return errors.ContextOverflow(*_sizes(error))
    if codes & _FILTER_CODES or _FILTERED.search(error.text):
        return errors.ContentFiltered()
    if _SYSTEM_ROLE.search(error.text):
        return errors.ProviderRejected(SYSTEM_ROLE_REFUSED)
    if (parameter := _sent_parameter(error, sent)) is not None:
        return errors.ProviderRejected(parameter=parameter)
    return None


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    """The objects of a document in which an error can stand, the outer ones first."""
    level, found = [document], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for one in level:
            if isinstance(one, list):
                below += one[:MAX_OBJECTS]
            elif isinstance(one, dict):
                found += 1
                if found > MAX_OBJECTS:
                    return
                yield one
                below += [_inner(one[name]) for name in _INNER if name in one]
        level = below


def _inner(value: Any) -> Any:
    """The value; decoded if it is an object as a text, as OpenRouter's `metadata.raw` is."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return _decode(value)
        except (msgspec.MsgspecError, RecursionError):
            return None
    return value


def _is_code(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and _CODE.fullmatch(value) is not None)


def _parameter(one: dict[str, Any]) -> str | None:
    """The path of the field at fault: `param`, or `loc` of FastAPI's errors, which begins with "body"."""
    if isinstance(param := one.get("param"), str):
        return param
    if isinstance(loc := one.get("loc"), list) and len(loc) > 1 and loc[0] == "body":
        parts = [f"[{part}]" if type(part) is int else f".{part}" for part in loc[1:] if isinstance(part, int | str)]
        return "".join(parts).removeprefix(".")
    return None


def _sent_parameter(error: ErrorBody, sent: bytes) -> str | None:
    """The path of the field at fault, as far as the request has its names."""
    path = error.parameter
    if path is None and (named := _PATH_IN_TEXT.search(error.text)) is not None:
        path = named[1]
    if path is None and _SCHEMA_IN_TEXT.search(error.text):
        path = "tools"
    if path is None or (match := _PATH.match(path[:MAX_PARAMETER])) is None:
        return None
    path = match[0]
    for name in _NAME.finditer(path):
        if name[0] not in _WORDS_OF_PROVIDERS and b'"%b"' % name[0].encode() not in sent:
            path = path[: name.start()].rstrip(".[")
            break
    return path or None


def _sizes(error: ErrorBody) -> tuple[int | None, int | None]:
    """The size of the request and the context window, in tokens; both None if the error does not have both."""
    size, window = error.sizes
    if size is None or window is None:
        size, window = _sizes_in(error.text)
    if size is None or window is None or not 0 < window < size < MAX_TOKENS:
        return None, None
    return size, window


def _sizes_in(text: str) -> tuple[int | None, int | None]:
    for pattern in _BOTH_SIZES:
        if (match := pattern.search(text)) is not None:
            *sizes, window = [_number(number) for number in match.groups()[:3]]
            return sum(sizes), window
    if (match := _SIZE.search(text)) is None:
        return None, None
    size = _number(match[1])
    windows = [_number(next(filter(None, window.groups()))) for window in _WINDOW.finditer(text)]
    return size, next((window for window in windows if window < size), None)


def _number(text: str) -> int:
    return int(text.replace(",", "").replace("_", ""))
