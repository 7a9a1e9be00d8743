"""What the providers that are reached over HTTP have in common."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import orjson

from tollkeeper import errors
from tollkeeper.chat import ChatRequest
from tollkeeper.dialects.parameters import refusal
from tollkeeper.dialects.reading import BadAnswer, ProviderSaidError
from tollkeeper.dialects.shape import Shape
from tollkeeper.errors import InputError
from tollkeeper.providers.base import Model, Question, Raw


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
    image_bytes = sum(len(picture.url) for picture in pictures if picture.url.startswith("data:"))
    return Shape(len(request.messages), len(pictures), image_bytes, bool(request.options.tools))


def texts_of(question: Question) -> Callable[[], tuple[str, ...]]:
    """What a tokenizer has to count; of a request that our nouns cannot hold, everything in it."""

    def texts() -> tuple[str, ...]:
        try:
            return question.request.texts
        except InputError:
            assert question.raw is not None
            return tuple(value.decode() for value in question.raw.fields.values())

    return texts


@contextmanager
def reading() -> Iterator[None]:
    """Reading an answer, whose faults are the provider's."""
    try:
        yield
    except BadAnswer as error:
        raise errors.ProviderBadResponse from error
    except ProviderSaidError:
        raise errors.ProviderFailed from None
