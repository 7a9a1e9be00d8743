"""Reads content that is a text, or a list of parts, as Mistral's reasoning models answer (docs, "Reasoning")."""

from typing import Any, NamedTuple


class ContentTexts(NamedTuple):
    """The text and the reasoning of one message or delta."""

    text: str = ""
    reasoning: str = ""


def read_content(content: Any) -> ContentTexts:
    """The texts in the content: a text, a part, or a list of them. Other kinds of content and parts are left out.

    A part of `thinking` is a list of parts itself.
    """
    if isinstance(content, str):
        return ContentTexts(content)
    text, reasoning = [], []
    for part in content if isinstance(content, list) else [content]:
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
