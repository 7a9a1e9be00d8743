"""The catalog that an operator writes: more providers, and models with names, weights and prices of their own.

A TOML file. What is wrong in it is told by its place, as `models.fast.weight`, and never by its value: a key could have
been put in the wrong place.
"""

import tomllib
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tollkeeper.chat import Price
from tollkeeper.errors import ConfigurationError

MAX_TOKENS = 100_000_000
MAX_WEIGHT = 1_000
MAX_USD = 1_000_000

_COMPLAINTS = {
    "extra_forbidden": "there is no such setting",
    "missing": "is missing",
    "string_pattern_mismatch": "is not of the form that it must have",
    "model_type": "must be a table",
    "dict_type": "must be a table",
}


def _exactly(value: object, parts: int, most: int) -> int:
    """A decimal number, from text or a number, in whole parts of one."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("must be a decimal number")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError("must be a decimal number") from None
    if not number.is_finite() or not 0 <= number <= most:
        raise ValueError(f"must be from 0 to {most}")
    scaled = Fraction(number) * parts
    if scaled.denominator != 1:
        raise ValueError(f"has more than {len(str(parts)) - 1} decimals")
    return scaled.numerator


def _micro_usd(value: object) -> int:
    return _exactly(value, 1_000_000, MAX_USD)


def _thousandths(value: object) -> int:
    return _exactly(value, 1_000, MAX_WEIGHT)


MicroUsd = Annotated[int, BeforeValidator(_micro_usd)]
Thousandths = Annotated[int, BeforeValidator(_thousandths)]
Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
ModelName = Annotated[str, Field(pattern=r"^\S{1,200}$")]
ProviderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
FieldName = Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
WireName = Literal["chat/completions", "responses", "embeddings"]
SamplingParameter = Literal[
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProviderEntry(_Table):
    """One provider. The key itself is never here, only the name of the variable that has it."""

    kind: Literal["openai", "anthropic", "ollama", "echo"]
    base_url: Url | None = None
    api_key_env: VariableName | None = None
    wires: list[WireName] | None = Field(None, min_length=1)
    wire: Literal["chat/completions", "responses"] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind != "openai" and (self.wires is not None or self.wire is not None):
            raise ValueError("only the kind openai has wires to choose from")
        if self.kind == "echo" and (self.base_url is not None or self.api_key_env is not None):
            raise ValueError("the kind echo has neither base_url nor api_key_env")
        if self.wire is not None and self.wires is not None and self.wire not in self.wires:
            raise ValueError("wire must be one of wires")
        return self


class PriceEntry(_Table):
    """In USD per million tokens; kept as micro-USD. What is cached costs as much as input, unless it says less."""

    input: MicroUsd
    output: MicroUsd
    cached_input: MicroUsd | None = None
    cache_write: MicroUsd | None = None

    @property
    def price(self) -> Price:
        cached = self.input if self.cached_input is None else self.cached_input
        return Price(self.input, cached, self.output, self.cache_write)


class ModelEntry(_Table):
    """One model. What is not said here is as published, or as usual."""

    provider: ProviderName
    model: ModelName | None = None
    aliases: list[ModelName] = []
    context_window: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    limit_name: FieldName | None = None
    sampling: list[SamplingParameter] | None = None
    weight: Thousandths = 1_000
    price: PriceEntry | None = None
    bills_hidden_output: bool | None = None
    overhead: Tokens | None = None
    overhead_with_tools: Tokens | None = None
    image_tokens: Tokens | None = None
    least_output: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    fallbacks: list[ModelName] = []


class CatalogFile(_Table):
    """All of it. `closed`: there are no models but those named here."""

    default: ModelName | None = None
    closed: bool = False
    providers: dict[ProviderName, ProviderEntry] = {}
    models: dict[ModelName, ModelEntry] = {}


def read_catalog(path: Path) -> CatalogFile:
    """Raises ConfigurationError that names the place of each mistake."""
    try:
        document = tomllib.loads(path.read_text("utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError("The file that TOLLKEEPER_CATALOG names cannot be read.") from None
    except tomllib.TOMLDecodeError as error:
        place = str(error).rpartition("(at ")[2].rstrip(")")
        raise ConfigurationError(f"The catalog is not valid TOML: look at {place}.") from None
    try:
        return CatalogFile.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(f"The catalog is not valid. {'; '.join(_problems(error))}.") from None


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        place = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        complaint = _COMPLAINTS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        yield f"{place}: {complaint}"
