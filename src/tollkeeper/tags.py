"""The tags of calls: names that a tenant has declared, each with a value, such as `cost-centre=42`."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import orjson

from tollkeeper.errors import TagRefused

MAX_TAGS_PER_CALL = 8
_NAME_TEXT = "[A-Za-z][A-Za-z0-9._-]{0,39}"
_VALUE_TEXT = "[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}"
TAG_NAME_PATTERN = rf"^{_NAME_TEXT}\Z"
TAG_VALUE_PATTERN = rf"^{_VALUE_TEXT}\Z"
TAGS_PATTERN = f"^{_NAME_TEXT}={_VALUE_TEXT}( *, *{_NAME_TEXT}={_VALUE_TEXT}){{0,{MAX_TAGS_PER_CALL - 1}}}$"
"""Of a header, in the syntax of JSON Schema."""
NO_TAGS: "Tags" = ()

Tags = tuple[str, ...]
"""The tags of a call, each as `name=value`, in the order of names; one for each name at most."""

_NAME, _VALUE = re.compile(TAG_NAME_PATTERN), re.compile(TAG_VALUE_PATTERN)
_FORM = (
    "A tag is name=value. The name is a letter and up to 39 more letters, digits, '.', '_' and '-'; the value is"
    " a letter or digit and up to 63 more letters, digits, '.', '_', ':', '/', '@', '+' and '-'."
)


def split_tag(tag: str) -> tuple[str, str]:
    """The name and the value of a tag."""
    name, _, value = tag.partition("=")
    return name, value


def is_tag_name(name: str) -> bool:
    """Whether a tag may have this name."""
    return _NAME.match(name) is not None


def make_tags(values: Mapping[str, str]) -> Tags:
    """The tags of these names and values. Raises TagRefused."""
    if len(values) > MAX_TAGS_PER_CALL:
        raise TagRefused(f"A call has at most {MAX_TAGS_PER_CALL} tags. Leave some out.")
    for name, value in values.items():
        if not is_tag_name(name) or not _VALUE.match(value):
            raise TagRefused(_FORM)
    return tuple([f"{name}={values[name]}" for name in sorted(values)])


def parse_tags(fields: Iterable[bytes]) -> Tags:
    """The tags of the values of a header, separated by commas. Raises TagRefused."""
    values: dict[str, str] = {}
    for part in b",".join(fields).split(b","):
        name, _, value = part.decode("latin-1").partition("=")
        name = name.strip()
        if name in values:
            raise TagRefused(f"The request names the tag {name} twice. Name it once.")
        values[name] = value.strip()
    return make_tags(values)


def parse_tag(text: str) -> str:
    """One tag, in its canonical form. Raises TagRefused."""
    name, value = split_tag(text)
    return make_tags({name.strip(): value.strip()})[0]


def override_tags(tags: Tags, by: Tags) -> Tags:
    """The tags, with those of `by` in place of their own of the same name. Raises TagRefused if they are too many."""
    return make_tags(dict(map(split_tag, (*tags, *by))))


@lru_cache(maxsize=10_000)
def encode_tags(tags: Tags) -> str | None:
    """The tags as they are stored: a JSON object of names and values; None without any."""
    return orjson.dumps(dict(map(split_tag, tags))).decode() if tags else None


@lru_cache(maxsize=10_000)
def decode_tags(stored: str | None) -> Tags:
    """The tags that are stored so."""
    values: dict[str, str] = orjson.loads(stored) if stored else {}
    return tuple([f"{name}={value}" for name, value in values.items()])
