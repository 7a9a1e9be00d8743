"""Embeddings from the cache, input by input: what is sent, what is paid, and what the answer has in which place."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from support.factories import make_principal, set_limit, user_quota
from support.gateway import FakeProvider, GatewayUnderTest, open_gateway
from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Usage
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.gateway.results import CallFailed, CallResult
from tollkeeper.providers.base import CallInput, Model, PreparedCall, RawRequest, Wire
from tollkeeper.response_cache.questions import CacheScope

pytestmark = pytest.mark.prove_only_on_postgres

Item = str | list[int]
Answer = dict[str, Any]


def tokens(item: Item) -> int:
    """What the provider reports: of a text, one for each character."""
    return len(item)


@dataclass
class VectorProvider(FakeProvider):
    """Answers with vectors that tell which input they are of. `change` may spoil an answer; `sent` has the inputs."""

    change: Callable[[Answer], object] = lambda _: None
    sent: list[list[Item]] = field(default_factory=list)

    def prepare(self, model: Model, call_input: CallInput, *, stream: bool = False) -> PreparedCall:
        assert call_input.raw is not None
        body = b'{"input":%b,"model":"%b"}' % (call_input.raw.fields["input"], model.upstream_name.encode())
        return PreparedCall(model, body, None, call_input.raw.input_size, lambda: (), Wire.EMBEDDINGS, raw=True)

    async def complete(self, prepared: PreparedCall, max_output: int) -> Completion:
        request = json.loads(prepared.body)
        given = request["input"]
        items = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        self.sent.append(items)
        await super().complete(prepared, max_output)
        usage = Usage(sum(map(tokens, items)), 0)
        data = [{"embedding": [item], "index": place} for place, item in enumerate(items)]
        answer: Answer = {"data": data[::-1], "model": request["model"]}
        self.change(answer)
        return Completion("", "stop", usage, raw=json.dumps(answer).encode())


@pytest.fixture
async def provider() -> VectorProvider:
    return VectorProvider()


@pytest.fixture
async def gateway(database_url: str, provider: VectorProvider) -> AsyncIterator[GatewayUnderTest]:
    async with open_gateway(database_url) as opened:
        opened.set_model("m", provider=provider)
        opened.cache.configure({opened.caller.tenant_id: CacheScope.USER})
        yield opened


def _no_chat() -> ChatRequest:
    raise errors.InvalidRequest("no chat")


async def embed(gateway: GatewayUnderTest, given: str | list[Any], **changes: Any) -> CallResult:
    raw = RawRequest(Wire.EMBEDDINGS, {"input": msgspec.json.encode(given)}, InputSize(1))
    return await gateway.complete(
        input=CallInput(_no_chat, raw), surface="embeddings", without_output=True, max_output=None, **changes
    )


def shown(result: CallResult) -> tuple[list[Item], int]:
    """Which inputs the vectors in the answer are of, in its order, and the usage that it shows."""
    answer = json.loads(result.completion.raw or b"")
    assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"]
    return [one["embedding"][0] for one in answer["data"]], answer["usage"]["total_tokens"]


async def test_of_ten_inputs_only_the_three_without_a_vector_are_sent_and_paid(
    gateway: GatewayUnderTest, provider: VectorProvider
) -> None:
    ten: list[Item] = ["a" * length for length in range(1, 11)]
    kept, new = [*ten[:2], *ten[3:6], *ten[8:]], [ten[2], ten[6], ten[7]]
    first = await embed(gateway, kept)
    result = await embed(gateway, ten)
    assert provider.sent == [kept, new]
    assert (first.charge.cost_tokens, result.charge.cost_tokens) == (sum(map(len, kept)), sum(map(len, new)))
    assert shown(result) == (ten, sum(map(len, new)))
    assert (result.from_cache, result.usage.input_tokens) == (False, sum(map(len, new)))
    again = await embed(gateway, ten[::-1])
    assert (again.from_cache, again.charge.basis, again.charge.cost_tokens) == (True, "cache", 0)
    assert shown(again) == (ten[::-1], sum(map(len, ten)))
    assert len(provider.sent) == 2
    assert (gateway.cache.hits, gateway.cache.misses) == (1, 2)
    assert len(await gateway.charges()) == 3


async def test_texts_and_tokens_have_vectors_of_their_own_and_one_input_is_a_list_of_one(
    gateway: GatewayUnderTest, provider: VectorProvider
) -> None:
    for given in ("12", [[12]], [12], ["12"], "[12]"):
        await embed(gateway, given)
    assert provider.sent == [["12"], [[12]], ["[12]"]]


async def test_an_input_that_stands_twice_in_a_request_is_sent_once(
    gateway: GatewayUnderTest, provider: VectorProvider
) -> None:
    result = await embed(gateway, ["aa", "b", "aa"])
    assert provider.sent == [["aa", "b"]]
    assert shown(result) == (["aa", "b", "aa"], 3)


async def test_another_user_tenant_or_model_gets_no_vector(gateway: GatewayUnderTest, provider: VectorProvider) -> None:
    await embed(gateway, "a")
    gateway.set_model("other")
    await embed(gateway, "a", model="other")
    tenant_id = gateway.caller.tenant_id
    for tenant in (tenant_id, None):
        gateway.caller = await make_principal(gateway.database, tenant_id=tenant)
        await set_limit(gateway.ledger, user_quota(gateway.caller), 1_000)
        await embed(gateway, "a", cache=True)
    assert provider.sent == [["a"]] * 4


async def test_vectors_of_two_models_never_stand_in_one_answer(
    gateway: GatewayUnderTest, provider: VectorProvider
) -> None:
    gateway.set_model("other")
    gateway.set_model("m", fallbacks=("other",))
    await embed(gateway, "a")
    provider.completions = [errors.ProviderAuthFailed(), Completion("", "stop", None)]
    result = await embed(gateway, ["a", "b"])
    assert result.model == "other"
    assert provider.sent == [["a"], ["a", "b"], ["a", "b"]]
    await embed(gateway, "b")
    assert provider.sent[-1] == ["b"], "the vector of another model was kept"


def _drop_one(answer: Answer) -> None:
    del answer["data"][0]


def _repeat_an_index(answer: Answer) -> None:
    answer["data"][0]["index"] = answer["data"][1]["index"]


def _name_a_place_that_is_not_there(answer: Answer) -> None:
    answer["data"][0]["index"] = 7


def _leave_a_vector_out(answer: Answer) -> None:
    del answer["data"][0]["embedding"]


@pytest.mark.parametrize("change", [_drop_one, _repeat_an_index, _name_a_place_that_is_not_there, _leave_a_vector_out])
async def test_an_answer_without_one_vector_for_each_input_is_forwarded_and_not_kept_or_is_an_error_beside_kept_ones(
    gateway: GatewayUnderTest, provider: VectorProvider, change: Callable[[Answer], object]
) -> None:
    provider.change = change
    for _ in range(2):
        answer = json.loads((await embed(gateway, ["a", "bb"])).completion.raw or b"")
        assert len(answer["data"]) == (1 if change is _drop_one else 2)
    provider.change = lambda _: None
    await embed(gateway, "c")
    provider.change = change
    with pytest.raises(CallFailed) as raised:
        await embed(gateway, ["a", "c", "bb"])
    assert isinstance(raised.value.cause, errors.ProviderBadResponse)
    assert raised.value.charge is not None
    assert (raised.value.charge.basis, raised.value.charge.cost_tokens) == ("provider", 3)
    assert provider.sent == [["a", "bb"], ["a", "bb"], ["c"], ["a", "bb"]]
    assert gateway.seen[-1].error == "provider_bad_response"


async def test_vectors_without_an_index_are_in_the_order_of_the_inputs(
    gateway: GatewayUnderTest, provider: VectorProvider
) -> None:
    def forget_indexes(answer: Answer) -> None:
        answer["data"].reverse()
        for one in answer["data"]:
            del one["index"]

    provider.change = forget_indexes
    await embed(gateway, ["a", "bb"])
    assert shown(await embed(gateway, ["bb", "a"])) == (["bb", "a"], 3)


async def test_the_same_inputs_at_once_are_sent_once_also_where_some_have_a_vector(
    gateway: GatewayUnderTest, provider: VectorProvider
) -> None:
    await embed(gateway, "a")
    provider.answer_gate = asyncio.Event()
    calls = [asyncio.create_task(embed(gateway, ["bb", "a"])) for _ in range(5)]
    await asyncio.sleep(0.05)
    provider.answer_gate.set()
    results = await asyncio.gather(*calls)
    assert provider.sent == [["a"], ["bb"]]
    assert sorted(result.charge.cost_tokens for result in results) == [0, 0, 0, 0, 2]
    assert [shown(result)[0] for result in results] == [["bb", "a"]] * 5


async def test_each_of_the_calls_that_wait_asks_for_itself_if_the_first_fails(
    gateway: GatewayUnderTest, provider: VectorProvider
) -> None:
    await embed(gateway, "a")
    provider.completions = [errors.ProviderRejected(), Completion("", "stop", None)]
    calls = [asyncio.create_task(embed(gateway, ["bb", "a"])) for _ in range(3)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, CallFailed) for result in results] == [True, False, False]
    assert provider.sent[1:] == [["bb"], ["bb", "a"], ["bb", "a"]]


async def test_a_change_of_the_configuration_while_a_call_runs_keeps_its_vectors_out(
    gateway: GatewayUnderTest, provider: VectorProvider
) -> None:
    provider.change = lambda _: gateway.cache.clear()
    await embed(gateway, ["a", "b"])
    await embed(gateway, ["a", "b"])
    assert provider.sent == [["a", "b"]] * 2
