"""The catalog file: further providers, and models with names, weights and prices of the operator's own.

A TOML file. An error message names the place of a mistake, such as `models.fast.weight`, and never its value: a key
could be in the wrong place.
"""

import tomllib
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tollkeeper.chat import Price
from tollkeeper.errors import ConfigurationError
from tollkeeper.printable import escape_unprintable, require_printable
from tollkeeper.providers.registry import KINDS_BY_NAME

MAX_TOKENS = 100_000_000
MAX_WEIGHT = 1_000
MAX_USD = 1_000_000

_COMPLAINTS = {
    "extra_forbidden": "there is no such setting",
    "missing": "is missing",
    "string_pattern_mismatch": "does not have the required form",
    "model_type": "must be a table",
    "dict_type": "must be a table",
}


def _scaled(value: object, scale: int, maximum: int) -> int:
    """A decimal number, from a string or a number, times `scale`. Raises ValueError unless that is a whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("must be a decimal number")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError("must be a decimal number") from None
    if not number.is_finite() or not 0 <= number <= maximum:
        raise ValueError(f"must be from 0 to {maximum}")
    scaled = Fraction(number) * scale
    if scaled.denominator != 1:
        raise ValueError(f"has more than {len(str(scale)) - 1} decimals")
    return scaled.numerator


def _micro_usd(value: object) -> int:
    return _scaled(value, 1_000_000, MAX_USD)


def _thousandths(value: object) -> int:
    return _scaled(value, 1_000, MAX_WEIGHT)


def _known_kind(kind: str) -> str:
    if kind not in KINDS_BY_NAME:
        raise ValueError(f"must be one of {', '.join(KINDS_BY_NAME)}")
    return kind


MicroUsd = Annotated[int, BeforeValidator(_micro_usd)]
Thousandths = Annotated[int, BeforeValidator(_thousandths)]
Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
ModelName = Annotated[str, Field(pattern=r"^\S{1,200}$"), AfterValidator(require_printable)]
ProviderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
KindName = Annotated[str, AfterValidator(_known_kind)]
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
    """One provider. `api_key_env` is the name of the variable that has the API key: the key itself is never here."""

    kind: KindName
    base_url: Url | None = None
    api_key_env: VariableName | None = None
    wires: list[WireName] | None = Field(None, min_length=1)
    wire: Literal["chat/completions", "responses"] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        superfluous = self.model_fields_set - {"kind"} - KINDS_BY_NAME[self.kind].catalog_fields
        if superfluous:
            raise ValueError(f"the kind {self.kind} does not have {', '.join(sorted(superfluous))}")
        if self.wire is not None and self.wires is not None and self.wire not in self.wires:
            raise ValueError("wire must be one of wires")
        return self


class PriceEntry(_Table):
    """In USD per million tokens, read as micro-USD. Cached input costs as much as input, unless a price is given."""

    input: MicroUsd
    output: MicroUsd
    cached_input: MicroUsd | None = None
    cache_write: MicroUsd | None = None

    @property
    def price(self) -> Price:
        cached_input = self.input if self.cached_input is None else self.cached_input
        return Price(self.input, cached_input, self.output, self.cache_write)


class ModelEntry(_Table):
    """One model. A field that is not given has the published value, or the default."""

    provider: ProviderName
    model: ModelName | None = None
    aliases: list[ModelName] = []
    context_window: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    limit_name: FieldName | None = None
    sampling: list[SamplingParameter] | None = None
    weight: Thousandths = 1_000
    price: PriceEntry | None = None
    bills_hidden_output: bool | None = Field(None, alias="bills_unseen")
    overhead: Tokens | None = None
    overhead_with_tools: Tokens | None = None
    image_tokens: Tokens | None = None
    least_output: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    fallbacks: list[ModelName] = []


class CatalogFile(_Table):
    """The whole file. `closed`: there are no models but those in the file."""

    default: ModelName | None = None
    closed: bool = False
    providers: dict[ProviderName, ProviderEntry] = {}
    models: dict[ModelName, ModelEntry] = {}


def read_catalog(path: Path) -> CatalogFile:
    """Read the file. Raises ConfigurationError that names the place of each mistake."""
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
        place = escape_unprintable(".".join(str(part) for part in problem["loc"] if part != "[key]"))
        complaint = _COMPLAINTS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        yield f"{place}: {complaint}"
