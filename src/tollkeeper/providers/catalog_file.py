"""The catalog file: further providers, and models with names, weights and prices of the operator's own.

A TOML file. An error message names the place of a mistake, such as `models.fast.weight`, and never its value: a key
could be in the wrong place.
"""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tollkeeper.chat import Price
from tollkeeper.dialects.parameters import Treatment
from tollkeeper.errors import ConfigurationError
from tollkeeper.printable import escape_unprintable, require_printable
from tollkeeper.providers.extra_parameters import complaint_about
from tollkeeper.providers.registry import KINDS_BY_NAME
from tollkeeper.settings.toml_file import read_toml

MAX_PROBLEMS = 20
"""Mistakes that one error message names."""
MAX_TOKENS = 100_000_000
MAX_WEIGHT = 1_000
MAX_USD = 1_000_000
MAX_DEPLOYMENTS = 20
MAX_SHARE = 1_000

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


def _extra_name(name: str) -> str:
    if (complaint := complaint_about(name)) is not None:
        raise ValueError(complaint)
    return name


MicroUsd = Annotated[int, BeforeValidator(_micro_usd)]
Thousandths = Annotated[int, BeforeValidator(_thousandths)]
Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
ModelName = Annotated[str, Field(pattern=r"^\S{1,200}$"), AfterValidator(require_printable)]
ProviderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
KindName = Annotated[str, AfterValidator(_known_kind)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
FieldName = Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
ExtraName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,59}$"), AfterValidator(_extra_name)]
ExtraParameters = dict[ExtraName, Literal["pass", "drop", "refuse"]]
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
    api_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,40}$")] | None = None
    knows_store: bool | None = None
    knows_stream_options: bool = True
    extra_parameters: ExtraParameters = {}

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        kind = KINDS_BY_NAME[self.kind]
        superfluous = self.model_fields_set - {"kind", "extra_parameters"} - kind.catalog_fields
        if superfluous:
            raise ValueError(f"the kind {self.kind} does not have {', '.join(sorted(superfluous))}")
        if missing := [name for name in kind.required_fields if getattr(self, name) is None]:
            raise ValueError(f"the kind {self.kind} needs {', '.join(missing)}")
        if not kind.passes_extra and "pass" in self.extra_parameters.values():
            raise ValueError(f"the kind {self.kind} passes no extra_parameters on, so each must be drop or refuse")
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


class DeploymentEntry(_Table):
    """One of the places that serve a model, and how much of its calls it gets, in proportion to the others."""

    provider: ProviderName
    model: ModelName | None = None
    share: Annotated[int, Field(ge=1, le=MAX_SHARE)] = 1


class ModelEntry(_Table):
    """One model. A field that is not given has the published value, or the default."""

    provider: ProviderName | None = None
    model: ModelName | None = None
    deployments: list[DeploymentEntry] | None = Field(None, min_length=1, max_length=MAX_DEPLOYMENTS)
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
    extra_parameters: ExtraParameters = {}
    fallbacks: list[ModelName] = []

    @model_validator(mode="after")
    def _is_served(self) -> Self:
        if self.deployments is None:
            if self.provider is None:
                raise ValueError("needs provider, or deployments at several providers")
            return self
        if self.provider is not None or self.model is not None:
            raise ValueError("has deployments, so each of them has provider and model")
        if len({one.provider for one in self.deployments}) < len(self.deployments):
            raise ValueError("each of its deployments needs a provider of its own, which its charges name")
        return self


def treatments_of(extra_parameters: ExtraParameters) -> dict[str, Treatment]:
    """What the operator decided on each extra parameter."""
    return {name: Treatment(treatment) for name, treatment in extra_parameters.items()}


class CatalogFile(_Table):
    """The whole file. `closed`: there are no models but those in the file."""

    default: ModelName | None = None
    closed: bool = False
    providers: dict[ProviderName, ProviderEntry] = {}
    models: dict[ModelName, ModelEntry] = {}


def read_catalog(path: Path) -> CatalogFile:
    """Read the file. Raises ConfigurationError that names the place of each mistake."""
    document = read_toml(path, "catalog")
    try:
        return CatalogFile.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(f"The catalog is not valid. {'; '.join(_problems(error))}.") from None


def _problems(error: ValidationError) -> Iterator[str]:
    found = error.errors(include_input=False, include_url=False, include_context=False)
    for problem in found[:MAX_PROBLEMS]:
        place = escape_unprintable(".".join(str(part) for part in problem["loc"] if part != "[key]"))
        complaint = _COMPLAINTS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        yield f"{place}: {complaint}"
    if len(found) > MAX_PROBLEMS:
        yield f"and {len(found) - MAX_PROBLEMS:,} more"
