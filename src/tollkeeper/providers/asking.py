"""What the providers that are reached over HTTP have in common."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from tollkeeper import errors
from tollkeeper.chat import ChatRequest
from tollkeeper.dialects.parameters import refusal
from tollkeeper.dialects.reading import BadAnswer, ProviderSaidError
from tollkeeper.dialects.shape import Shape
from tollkeeper.providers.base import Model, Question, Raw

LONGEST_URL = 2_000
"""A longer one is no address, but the picture itself."""


def body_of(raw: Raw, ours: dict[str, object], limit_name: str | None) -> tuple[bytes, bytes | None]:
    """A request that goes out as it came, but for our own fields: what stands before the output limit, and after."""
    fields = [orjson.dumps(name) + b":" + value for name, value in raw.fields.items()]
    fields += [orjson.dumps(name) + b":" + orjson.dumps(value) for name, value in ours.items()]
    body = b"{" + b",".join(fields)
    return (body + b"}", None) if limit_name is None else (body + b',"' + limit_name.encode() + b'":', b"}")


def opened(document: dict[str, object], limit_name: str) -> tuple[bytes, bytes]:
    """A document of ours, before the output limit and after."""
    return orjson.dumps(document)[:-1] + b',"' + limit_name.encode() + b'":', b"}"


def refuse_sampling(model: Model, names: Iterable[str], sampling: frozenset[str]) -> None:
    """Raises UnsupportedParameter for one of the `sampling` parameters that the model does not take."""
    if model.sampling is None:
        return
    for name in names:
        if name in sampling and name not in model.sampling:
            raise refusal(name)


def shape_of_request(request: ChatRequest) -> Shape:
    """What bounds the input of a request in our nouns."""
    pictures = request.pictures
    image_bytes = sum(len(picture.url.partition(",")[2]) for picture in pictures if picture.url.startswith("data:"))
    return Shape(len(request.messages), len(pictures), image_bytes, bool(request.options.tools))


def texts_of(question: Question) -> Callable[[], tuple[str, ...]]:
    """What a tokenizer has to count. Of a request that goes out as it came that is all text in it, known or not."""
    raw = question.raw
    return (lambda: question.request.texts) if raw is None else (lambda: tuple(_texts_in(raw)))


_GRAMMAR = frozenset(
    {"role", "content", "type", "text", "id", "name", "function", "input", "image_url", "url", "source"}
)
"""Keys that make up a request, and are not part of what the model reads."""
_PICTURE_KEYS = frozenset({"url", "image_url", "data"})


def _texts_in(raw: Raw) -> Iterator[str]:
    """Every string but those that hold pictures, every number, and every key that someone has chosen."""
    found: list[tuple[str, Any]] = [(name, orjson.loads(value)) for name, value in raw.fields.items()]
    while found:
        key, value = found.pop()
        match value:
            case str():
                if not (raw.shape.images and key in _PICTURE_KEYS and len(value) > LONGEST_URL):
                    yield value
            case list():
                found += [(key, one) for one in value]
            case dict():
                found += value.items()
                yield from value.keys() - _GRAMMAR
            case int() | float() if not isinstance(value, bool):
                yield str(value)


@contextmanager
def reading() -> Iterator[None]:
    """Reading an answer, whose faults are the provider's."""
    try:
        yield
    except BadAnswer as error:
        raise errors.ProviderBadResponse from error
    except ProviderSaidError:
        raise errors.ProviderFailed from None
