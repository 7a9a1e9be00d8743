"""The answer of the upstream independent of its wire: the script in a request, and the parts and usage that it sets.

One word is one token. The keys of a script are described in `upstream.server`.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

SECRET = "SECRET-OF-THE-UPSTREAM"
DEFAULT_ANSWER = "The upstream says hello."

AFTER = ("stall_after", "reset_after", "close_after", "garbage_after", "error_after")
FAULTY = frozenset({*AFTER, "status", "headers", "raw", "json", "fault", "reset_at_byte", "no_done", "close_at_end"})
"""The keys without effect after `fail_times` requests."""
COUNTED = frozenset({"chunks", "over_generate", "tool_call", "reasoning", "refusal"})
KEYS = (
    FAULTY
    | COUNTED
    | {"answer", "repeat", "obey_limit", "finish_reason", "usage", "without_usage", "fail_times", "by_model"}
    | {"delay", "pace", "gate", "gate_after_log", "gate_after"}
    | {"split_at", "coalesce", "duplicate_frames", "crlf", "comments", "comments_after"}
)

_SCRIPT = re.compile(r"<<(\{.*\})>>", re.DOTALL)
_WORD = re.compile(r"\S+")
_CHUNK = re.compile(r"\s*\S+(?:\s+$)?")
_TEXT_FIELDS = ("text", "content", "arguments", "output", "thinking")
_INPUT_FIELDS = ("system", "instructions", "messages", "input")

Body = dict[str, Any]
Script = dict[str, Any]
Kind = Literal["reasoning", "text", "refusal", "tool"]


class Usage(NamedTuple):
    """The usage on any wire, in tokens. `input` includes `cached`, `output` includes `reasoning`."""

    input: int
    output: int
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


class Part(NamedTuple):
    """A part of an answer, as the deltas in which it is streamed. `name` is the name of a tool."""

    kind: Kind
    chunks: tuple[str, ...]
    name: str = ""

    @property
    def text(self) -> str:
        return "".join(self.chunks)

    @property
    def words(self) -> int:
        return words(self.text)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on any wire. `usage` is a Usage, or any value that the script sets in its place."""

    parts: tuple[Part, ...]
    choices: int
    reason: str
    usage: Any
    reported: bool


class Scripts:
    """Finds the scripts in requests, and counts how often each has failed."""

    def __init__(self) -> None:
        self._failed: Counter[tuple[str, str]] = Counter()

    def of(self, body: Body) -> Script:
        """The script of a request, or an empty one."""
        text, has_tool_result = _last_of_user(body)
        if (found := _SCRIPT.search(text)) is None:
            return {}
        script: Script = json.loads(found[1])
        model = str(body.get("model")) if body.get("model") in script.get("by_model", {}) else ""
        script |= script.pop("by_model", {}).get(model, {})
        if unknown := script.keys() - KEYS:
            raise ValueError(f"no such keys in a script: {sorted(unknown)}")
        if (times := script.get("fail_times")) is not None:
            self._failed[text, model] += 1
            if self._failed[text, model] > times:
                script = {key: value for key, value in script.items() if key not in FAULTY}
        if has_tool_result:
            script.pop("tool_call", None)
        return script


def plan(body: Body, script: Script, limit: int | None, *, plain_usage: bool) -> Answer:
    """The answer to a request. `plain_usage`: an answer without other keys reports 9 and 5 tokens."""
    parts = _parts(script)
    obeys = script.get("obey_limit", not {"repeat", "over_generate"} & script.keys())
    reason = "tool" if "tool_call" in script else "refusal" if "refusal" in script else "stop"
    if limit is not None and obeys and sum(part.words for part in parts) > limit:
        parts, reason, plain_usage = _cut(parts, limit), "length", False
    choices = body.get("n") or 1
    plain = plain_usage and choices == 1 and not COUNTED & script.keys() and (limit is None or limit >= 5)
    counted = Usage(
        input=words_in([body.get(name) for name in _INPUT_FIELDS]),
        output=choices * sum(part.words for part in parts),
        reasoning=choices * sum(part.words for part in parts if part.kind == "reasoning"),
    )
    usage = script.get("usage", Usage(9, 5) if plain else counted)
    if isinstance(usage, dict) and usage and usage.keys() <= set(Usage._fields):
        usage = counted._replace(**usage)
    return Answer(tuple(parts), choices, script.get("finish_reason", reason), usage, not script.get("without_usage"))


def words(text: str) -> int:
    return len(text.split())


def words_in(value: Any) -> int:
    """The number of words in a part of a request. A number is one word: a token id."""
    match value:
        case str():
            return words(value)
        case int():
            return 1
        case list():
            return sum(map(words_in, value))
        case dict():
            return sum(words_in(value[name]) for name in _TEXT_FIELDS if name in value)
    return 0


def split_words(text: str) -> tuple[str, ...]:
    """Split a text into pieces of one word, each with the spaces before it."""
    return tuple(found[0] for found in _CHUNK.finditer(text)) or ((text,) if text else ())


def _parts(script: Script) -> list[Part]:
    parts = []
    if "reasoning" in script:
        parts.append(Part("reasoning", split_words(script["reasoning"])))
    calls = script.get("tool_call", [])
    calls = calls if isinstance(calls, list) else [calls]
    if "refusal" in script:
        parts.append(Part("refusal", split_words(script["refusal"])))
    elif not calls or {"answer", "chunks"} & script.keys():
        parts.append(Part("text", _chunks(script)))
    for call in calls:
        arguments = call.get("arguments", {})
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        parts.append(Part("tool", split_words(text), call["name"]))
    return parts


def _chunks(script: Script) -> tuple[str, ...]:
    if "over_generate" in script:
        return split_words(" ".join(["word"] * script["over_generate"]))
    times = script.get("repeat", 1)
    if "chunks" in script:
        chunks: list[str] = script["chunks"]
        return tuple(chunks * times)
    return split_words(script.get("answer", DEFAULT_ANSWER) * times)


def _cut(parts: list[Part], limit: int) -> list[Part]:
    """The first `limit` words, without parts that become empty."""
    remaining = []
    for part in parts:
        ends = [found.end() for found in _WORD.finditer(part.text)]
        if len(ends) > limit:
            end = ends[limit - 1] if limit else 0
            starts = accumulate(map(len, part.chunks), initial=0)
            pieces = (chunk[: max(0, end - start)] for chunk, start in zip(part.chunks, starts, strict=False))
            part = part._replace(chunks=tuple(filter(None, pieces)))
        limit -= min(limit, len(ends))
        if part.chunks or not ends:
            remaining.append(part)
    return remaining


def _last_of_user(body: Body) -> tuple[str, bool]:
    """The last text of a user, and whether the result of a tool follows it."""
    has_tool_result = False
    for entry in reversed(_entries(body)):
        match entry:
            case str():
                return entry, has_tool_result
            case {"role": "user", "content": content} if text := _text(content):
                return text, has_tool_result
            case {"role": "user" | "tool"} | {"type": "function_call_output"}:
                has_tool_result = True
    return "", has_tool_result


def _entries(body: Body) -> list[Any]:
    found = body.get("messages", body.get("input", []))
    return found if isinstance(found, list) else [found]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))
