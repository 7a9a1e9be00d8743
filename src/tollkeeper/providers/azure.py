"""Azure OpenAI: OpenAI's wire formats at the addresses of a resource, whose models are deployments with free names.

Wire format: Azure OpenAI REST API reference, "v1 API" and "Data plane inference" (an address for each deployment, and
the version of the API in the query). The key is in the header `api-key`.
"""

import re

from tollkeeper.errors import InvalidRequest
from tollkeeper.providers.base import CallInput, Model, PreparedCall, Wire
from tollkeeper.providers.http.choice import HttpOptions, http_options
from tollkeeper.providers.http_common import NO_KEY
from tollkeeper.providers.kind import ConfiguredProvider, ProviderKind, ProviderOptions
from tollkeeper.providers.openai import ALL_WIRES, COMMON_WIRES, OpenAIProvider, wires_of
from tollkeeper.providers.openai import KIND as OPENAI
from tollkeeper.settings import Settings

_DEPLOYMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_AFTER_THE_RESOURCE = re.compile(r"/openai(/v1)?/?$")


class AzureProvider(OpenAIProvider):
    """A resource of Azure OpenAI. With an `api_version`, its deployments are called at their own, older addresses."""

    def __init__(
        self,
        *,
        api_key: str,
        resource_url: str,
        api_version: str | None,
        timeout_s: float,
        http: HttpOptions | None = None,
        name: str,
        wires: frozenset[Wire],
        wire: Wire,
        knows_store: bool,
        knows_stream_options: bool,
    ) -> None:
        super().__init__(
            api_key=api_key,
            base_url=f"{resource_url}/openai" if api_version else f"{resource_url}/openai/v1",
            timeout_s=timeout_s,
            http=http,
            name=name,
            wires=wires,
            wire=wire,
            knows_store=knows_store,
            knows_stream_options=knows_stream_options,
            key_header=("api-key", ""),
        )
        self._api_version = api_version
        self._names_openai_models = True

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        """Raises InvalidRequest also for a name that no deployment can have: a name is part of the older address."""
        if not _DEPLOYMENT.fullmatch(model.upstream_name):
            raise InvalidRequest("No deployment can have this name.", parameter="model")
        return super().prepare(model, call_input, stream=stream)

    def _path(self, prepared: PreparedCall) -> str:
        path = super()._path(prepared)
        if self._api_version is None:
            return path
        if prepared.wire is not Wire.RESPONSES:
            path = f"/deployments/{prepared.model.upstream_name}{path}"
        return f"{path}?api-version={self._api_version}"


def _from_catalog(options: ProviderOptions, settings: Settings) -> ConfiguredProvider:
    """A price by the name of a deployment would be a guess: there is none but that of the catalog."""
    assert options.base_url is not None
    wires, wire = wires_of(options, ALL_WIRES if options.api_version is None else COMMON_WIRES)
    provider = AzureProvider(
        api_key=options.key_or(NO_KEY),
        resource_url=_AFTER_THE_RESOURCE.sub("", options.base_url.rstrip("/")),
        api_version=options.api_version,
        timeout_s=settings.timeout_seconds,
        http=http_options(settings),
        name=options.name,
        wires=wires,
        wire=wire,
        knows_store=options.api_version is None if options.knows_store is None else options.knows_store,
        knows_stream_options=options.knows_stream_options,
    )
    return ConfiguredProvider(provider)


KIND = ProviderKind(
    "azure",
    _from_catalog,
    catalog_fields=OPENAI.catalog_fields | {"api_version"},
    required_fields=("base_url", "api_key_env"),
    passes_extra=True,
)
