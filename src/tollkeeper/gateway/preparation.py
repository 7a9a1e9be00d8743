"""Prepares calls for the models that may answer them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tollkeeper.gateway.allowed_models import require_model
from tollkeeper.gateway.attempts import MakeCandidate
from tollkeeper.gateway.candidate import Candidate, ModelCall
from tollkeeper.principal import Principal
from tollkeeper.providers.base import Model
from tollkeeper.providers.catalog import Catalog
from tollkeeper.providers.deployments import deployment_at
from tollkeeper.worker_thread import run_by_size


class Preparation:
    """Prepares calls for models of the `catalog`. `default_output` is the output limit of a call without one."""

    def __init__(self, catalog: Catalog, *, default_output: int) -> None:
        self._catalog = catalog
        self._default_output = default_output

    async def candidate(
        self, caller: Principal, call: ModelCall, *, stream: bool, own_keys: bool = True, provider: str | None = None
    ) -> Candidate:
        """The call, prepared for its model.

        With `own_keys`, it goes to providers with the tenant's own keys, where it has any. With `provider`, it goes to
        that one: raises ModelNotFound if it does not have the model any more. Raises ModelNotFound, Forbidden,
        InputError.
        """
        require_model(self._catalog, caller, call.model)
        model = deployment_at(self._catalog.model(call.model, caller.tenant_id if own_keys else None), provider)
        return await self.for_model(call, model, stream=stream)

    async def for_model(self, call: ModelCall, model: Model, *, stream: bool) -> Candidate:
        """The call, prepared for this model. Raises InputError."""
        prepared = await run_by_size(call.input.size, model.provider.prepare, model, call.input, stream=stream)
        return Candidate(call, model, prepared, self._default_output)

    def other_deployments(self, candidate: Candidate, *, stream: bool) -> Iterator[MakeCandidate]:
        """Each other deployment of the candidate's model, chosen and prepared when it is its turn."""
        tried = {candidate.model.provider.name}
        deployments = candidate.model.deployments
        while deployments is not None and (model := deployments.another(tried)) is not None:
            tried.add(model.provider.name)
            yield partial(self.for_model, candidate.call, model, stream=stream)

    def fallbacks(self, caller: Principal, candidate: Candidate, *, stream: bool) -> Iterator[MakeCandidate]:
        """Each of the model's fallbacks in turn, prepared when it is its turn."""
        for name in candidate.model.fallbacks:
            yield partial(self.candidate, caller, replace(candidate.call, model=name), stream=stream)
