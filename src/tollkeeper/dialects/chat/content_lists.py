"""Reads content that is a list of parts, as Mistral's reasoning models answer (Mistral docs, "Reasoning")."""

from typing import Any, NamedTuple


class ContentTexts(NamedTuple):
    """The text and the reasoning of one message or delta."""

    text: str = ""
    reasoning: str = ""


def read_content(parts: list[Any]) -> ContentTexts:
    """The texts of the parts, joined. A part of `thinking` is a list of parts itself. Other kinds are left out."""
    text, reasoning = [], []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
        elif isinstance(part, dict):
            thinking = part.get("thinking")
            if isinstance(thinking, list):
                reasoning += [
                    one["text"] for one in thinking if isinstance(one, dict) and isinstance(one.get("text"), str)
                ]
            elif isinstance(thinking, str):
                reasoning.append(thinking)
            if isinstance(part.get("text"), str):
                text.append(part["text"])
    return ContentTexts("".join(text), "".join(reasoning))
