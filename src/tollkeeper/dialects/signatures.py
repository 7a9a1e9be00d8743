"""Carries the signatures of a model's reasoning through wire formats that have no field for them.

Some models sign their reasoning, and demand it back unchanged in the next turn. A signature is wrapped in a seal: a
text of letters, digits, `-` and `_` that names the model and the kind of signature. The seal goes to the caller in the
field for a signature where the caller's wire format has one, else at the end of a tool call's id, which every client
sends back. A model receives only its own signatures: others cannot be verified, and would be refused.
"""

import base64
import re
from hashlib import blake2b
from typing import Literal, NamedTuple

from tollkeeper.chat import ChatRequest, Message, Part, Reasoning, ToolCall, ToolResult

Kind = Literal["thinking", "redacted", "encrypted", "extra"]
"""A signature of the messages wire, of a block with text or without; of the responses wire; or the `extra_content` of a
tool call of the chat wire, in which Gemini sends its signature.
"""

SEAL = "__tksig1"
"""How each seal begins."""

_LETTERS: dict[Kind, str] = {"thinking": "t", "redacted": "r", "encrypted": "e", "extra": "x"}
ALL_KINDS = frozenset(_LETTERS)
_EXTRA: frozenset[Kind] = frozenset({"extra"})
_SEALED = re.compile(SEAL + "([trex])([0-9a-f]{8})([0-9a-f]{8})([A-Za-z0-9_-]*)")
_RAW_SEAL = SEAL.encode()


class Signature(NamedTuple):
    """A signature that a model can verify."""

    kind: Kind
    value: str


def seal(signer: str, kind: Kind, value: str, text: str = "") -> str:
    """The seal with a signature of the model `signer`. It opens only together with the same `text`."""
    encoded = base64.urlsafe_b64encode(value.encode(errors="replace")).decode().rstrip("=")
    return f"{SEAL}{_LETTERS[kind]}{_digest(signer)}{_digest(text)}{encoded}"


def open_seal(sealed: str, signer: str, text: str = "", kinds: frozenset[Kind] = ALL_KINDS) -> Signature | None:
    """The signature in a seal; None if it is another model's, another text's, of none of these kinds, or no seal."""
    found = _SEALED.fullmatch(sealed)
    if found is None or found[2] != _digest(signer) or found[3] != _digest(text):
        return None
    kind = next((kind for kind in kinds if _LETTERS[kind] == found[1]), None)
    try:
        value = base64.urlsafe_b64decode(found[4] + "=" * (-len(found[4]) % 4)).decode()
    except ValueError:
        return None
    return None if kind is None else Signature(kind, value)


def split_call_id(call_id: str) -> tuple[str, str]:
    """The model's own id of a tool call, and the seal at its end, or an empty text."""
    own, marker, rest = call_id.partition(SEAL)
    return own, marker + rest


def has_seal(raw: bytes) -> bool:
    """Whether there can be a seal in this JSON."""
    return _RAW_SEAL in raw


def open_request(
    chat_request: ChatRequest, signer: str, kinds: frozenset[Kind], *, unsigned: bool = False
) -> ChatRequest:
    """The request as the model `signer` may receive it: with its own signatures of these kinds, and without seals.

    Reasoning without such a signature is kept as text only if the model takes it `unsigned`; else it is left out, and
    so is a message that has nothing else.
    """
    if not any(map(_has_carried, chat_request.messages)):
        return chat_request
    messages = []
    for message in chat_request.messages:
        if not _has_carried(message):
            messages.append(message)
        elif parts := tuple(_open_parts(message, signer, kinds, unsigned=unsigned)):
            messages.append(message._replace(content=parts))
    return chat_request._replace(messages=tuple(messages))


def _has_carried(message: Message) -> bool:
    if isinstance(message.content, str):
        return False
    return any(
        isinstance(part, Reasoning)
        or (isinstance(part, ToolCall) and SEAL in part.id)
        or (isinstance(part, ToolResult) and SEAL in part.call_id)
        for part in message.content
    )


def _open_parts(message: Message, signer: str, kinds: frozenset[Kind], *, unsigned: bool) -> list[Part]:
    opened: list[Part] = []
    for part in message.parts:
        match part:
            case Reasoning(text, sealed):
                signature = open_seal(sealed, signer, text, kinds - _EXTRA)
                if signature is not None:
                    opened.append(Reasoning(text, signature.value, signature.kind == "redacted"))
                elif unsigned and text:
                    opened.append(Reasoning(text))
            case ToolCall(call_id):
                own, sealed = split_call_id(call_id)
                signature = open_seal(sealed, signer, kinds=kinds & _EXTRA)
                opened.append(part._replace(id=own, signature=signature.value if signature is not None else ""))
            case ToolResult(call_id):
                opened.append(part._replace(call_id=split_call_id(call_id)[0]))
            case _:
                opened.append(part)
    return opened


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="replace"), digest_size=4).hexdigest()
