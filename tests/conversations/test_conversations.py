"""Conversations: what is stored, for which user, up to which size, and when it is deleted."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from conversation_worker import converse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import col, select
from structlog.testing import capture_logs

from support.deadlines import TEST_DEADLINE_S
from support.encryption import make_data_keys
from support.factories import FakeClock, make_principal
from tollkeeper.chat import Message
from tollkeeper.clock import SystemClock
from tollkeeper.conversations import Conversations, service
from tollkeeper.conversations.models import StoredConversation, StoredMessage
from tollkeeper.conversations.repository import ConversationRepository, Cursor, NewMessage
from tollkeeper.conversations.trimming import MESSAGE_OVERHEAD_TOKENS
from tollkeeper.database.engine import Database
from tollkeeper.errors import DatabaseUnavailable, InvalidRequest
from tollkeeper.principal import Principal, Role

WORKER = Path(__file__).parent / "conversation_worker.py"
PLENTY = 100_000
KEYS = make_data_keys()
CLOCK = SystemClock()
CALLS_EACH = 25


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def system(text: str) -> Message:
    return Message("system", text)


async def add_exchange(
    conversations: Conversations, caller: Principal, name: str, answer: str, *turns: Message
) -> None:
    """Make one call with its answer."""
    conversation = await conversations.open(caller, name, turns)
    await conversation.add(answer)


async def remembered(conversations: Conversations, caller: Principal, name: str) -> tuple[Message, ...]:
    """The messages that the next call would receive."""
    return (await conversations.open(caller, name, ())).messages


async def stored(database: Database, caller: Principal, name: str) -> tuple[StoredConversation, list[NewMessage]]:
    async with database.session() as session:
        repository = ConversationRepository(session, caller, KEYS)
        found = await repository.find(name)
        assert found is not None
        assert found.id is not None
        return found, await repository.messages(found.id)


async def count(database: Database, table: type[StoredConversation] | type[StoredMessage]) -> int:
    async with database.session() as session:
        return len((await session.exec(select(table))).all())


async def test_a_call_receives_the_earlier_messages(database: Database) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    await add_exchange(conversations, caller, "a", "Fine.", user("How are you?"))
    await add_exchange(conversations, caller, "a", "You are welcome.", user("Thanks."))
    conversation = await conversations.open(caller, "a", (user("Bye."),))
    assert conversation.id == "a"
    assert conversation.messages == (
        user("How are you?"),
        assistant("Fine."),
        user("Thanks."),
        assistant("You are welcome."),
        user("Bye."),
    )


async def test_every_message_of_a_call_is_stored(database: Database) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    turns = (assistant("Hello."), user("One."), assistant("Two."), user("Three."))
    await add_exchange(conversations, caller, "a", "Four.", *turns)
    assert await remembered(conversations, caller, "a") == (*turns, assistant("Four."))


async def test_the_system_prompt_that_was_given_last_comes_first_and_stays(database: Database) -> None:
    conversations, caller = Conversations(database, 60, keys=KEYS, clock=CLOCK), await make_principal(database)
    await add_exchange(conversations, caller, "a", "Arr.", system("A pirate."), user("Who are you?"))
    for number in range(6):
        await add_exchange(conversations, caller, "a", f"Arr {number}.", user(f"And now? {number}"))
    expected = await remembered(conversations, caller, "a")
    assert expected[0] == system("A pirate.")
    assert user("Who are you?") not in expected

    conversation = await conversations.open(caller, "a", (system("A poet."), user("Who are you?")))
    assert [turn for turn in conversation.messages if turn.role == "system"] == [system("A poet.")]
    assert (await remembered(conversations, caller, "a"))[0] == system("A pirate."), "it was given, but not answered"
    await conversation.add("A bard.")
    assert (await remembered(conversations, caller, "a"))[0] == system("A poet.")


async def test_several_system_messages_of_one_call_are_one_prompt(database: Database) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    turns = (system("Be kind."), user("Hello."), system("Be brief."))
    conversation = await conversations.open(caller, "a", turns)
    assert conversation.messages == (system("Be kind.\n\nBe brief."), user("Hello."))


async def test_a_system_prompt_that_is_too_large_to_be_kept_is_refused(database: Database) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    largest = "é" * (service.MAX_SYSTEM_PROMPT_BYTES // 2)
    assert (await conversations.open(caller, "a", (system(largest),))).messages == (system(largest),)
    with pytest.raises(InvalidRequest, match="65536 bytes"):
        await conversations.open(caller, "a", (system(largest + "!"),))


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
EXCHANGE = st.tuples(st.lists(TEXT, min_size=1, max_size=3), TEXT.filter(str.strip))
CALLS = st.lists(st.tuples(st.none() | TEXT, st.lists(EXCHANGE, min_size=1, max_size=4)), min_size=1, max_size=6)


def size(turn: Message) -> int:
    return len(turn.text.encode()) + MESSAGE_OVERHEAD_TOKENS


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=CALLS, max_tokens=st.integers(1, 250))
async def test_the_token_limit_holds_for_any_messages(
    database: Database, calls: list[tuple[str | None, list[tuple[list[str], str]]]], max_tokens: int
) -> None:
    """The newest complete exchanges that fit are kept, in the table too, and the newest system prompt."""
    conversations, caller = Conversations(database, max_tokens, keys=KEYS, clock=CLOCK), await make_principal(database)
    exchanges: list[tuple[Message, ...]] = []
    prompt: str | None = None
    for new_prompt, exchanges_of_call in calls:
        prompt = new_prompt or prompt
        new = [(*map(user, questions), assistant(answer)) for questions, answer in exchanges_of_call]
        turns = [turn for exchange in new for turn in exchange]
        given = (system(new_prompt),) if new_prompt is not None else ()
        await add_exchange(conversations, caller, "a", turns[-1].text, *given, *turns[:-1])
        exchanges += new

        expected: list[Message] = []
        for exchange in reversed(exchanges):
            if sum(map(size, (*exchange, *expected))) > max_tokens:
                break
            expected = [*exchange, *expected]
        assert await remembered(conversations, caller, "a") == (*([system(prompt)] if prompt else []), *expected)
        conversation, rows = await stored(database, caller, "a")
        assert [(row.role, row.content) for row in rows] == expected
        assert (conversation.turns, conversation.tokens) == (len(expected), sum(map(size, expected)))
        assert conversation.tokens <= max_tokens


async def test_an_exchange_that_is_too_large_by_itself_is_not_kept_nor_what_is_before_it(database: Database) -> None:
    conversations, caller = Conversations(database, 100, keys=KEYS, clock=CLOCK), await make_principal(database)
    await add_exchange(conversations, caller, "new", "x" * 100, user("?"))
    assert await remembered(conversations, caller, "new") == ()
    await add_exchange(conversations, caller, "old", "Yes.", user("Are you there?"))
    await add_exchange(conversations, caller, "old", "x" * 100, user("Say x."))
    assert await remembered(conversations, caller, "old") == ()
    await add_exchange(conversations, caller, "old", "Yes.", user("Are you there?"))
    assert await remembered(conversations, caller, "old") == (user("Are you there?"), assistant("Yes."))


async def test_a_bound_that_was_lowered_holds_at_once(database: Database) -> None:
    caller = await make_principal(database)
    for number in range(4):
        await add_exchange(
            Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), caller, "a", "y" * 12, user(f"question {number} ")
        )
    expected = await remembered(Conversations(database, 100, keys=KEYS, clock=CLOCK), caller, "a")
    assert [turn.text for turn in expected] == ["question 2 ", "y" * 12, "question 3 ", "y" * 12]


async def test_a_conversation_is_visible_to_its_user_only(database: Database) -> None:
    conversations, owner = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    colleague = await make_principal(database, owner.tenant_id)
    stranger = await make_principal(database)
    await add_exchange(conversations, owner, "a", "Blue.", system("Secret."), user("My favourite colour?"))
    for other in (colleague, stranger):
        assert await remembered(conversations, other, "a") == ()
        async with database.session() as session:
            assert await ConversationRepository(session, other, KEYS).list_page(after=None, limit=10) == []
            assert not await ConversationRepository(session, other, KEYS).delete("a")
        await add_exchange(conversations, other, "a", "Red.", user("Mine?"))
        assert await remembered(conversations, other, "a") == (user("Mine?"), assistant("Red."))
    assert len(await remembered(conversations, owner, "a")) == 3


async def test_a_user_id_without_its_tenant_opens_nothing(database: Database) -> None:
    conversations, owner = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    stranger = await make_principal(database)
    await add_exchange(conversations, owner, "a", "Blue.", user("My favourite colour?"))
    mixed = Principal(owner.user_id, stranger.tenant_id, owner.role, 0)
    assert await remembered(conversations, mixed, "a") == ()
    conversation, _ = await stored(database, owner, "a")
    assert conversation.id is not None
    async with database.session() as session:
        assert await ConversationRepository(session, mixed, KEYS).messages(conversation.id) == []


async def test_opening_writes_nothing_and_leaves_no_transaction_open(database: Database, database_url: str) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    await conversations.open(caller, "a", (user("Hello."),))
    assert await count(database, StoredConversation) == 0
    other = Database(database_url)
    async with other.session() as session:  # the table can be locked as a whole while the model speaks
        await session.exec(sa.delete(StoredConversation))
        if database_url.startswith("postgres"):
            connection = await session.connection()
            await connection.execute(sa.text("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE NOWAIT"))
    await other.close()


async def test_calls_at_once_keep_question_and_answer_together(database: Database) -> None:
    caller = await make_principal(database)
    await converse(database, caller, "a", "x", CALLS_EACH)
    await assert_whole(database, caller, CALLS_EACH)


async def test_two_processes_at_once_keep_question_and_answer_together(database: Database, database_url: str) -> None:
    caller = await make_principal(database)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(WORKER),
            *(database_url, str(caller.tenant_id), str(caller.user_id), "a", speaker, str(CALLS_EACH)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(WORKER.parents[1])},
        )
        for speaker in ("x", "y")
    ]
    ended = await asyncio.wait_for(asyncio.gather(*(process.communicate() for process in processes)), TEST_DEADLINE_S)
    assert [output for output, _ in ended] == [b"", b""]
    assert [process.returncode for process in processes] == [0, 0]
    await assert_whole(database, caller, 2 * CALLS_EACH)


async def assert_whole(database: Database, caller: Principal, calls: int) -> None:
    conversation, turns = await stored(database, caller, "a")
    assert await count(database, StoredConversation) == 1
    async with database.session() as session:
        sequences = (await session.exec(select(StoredMessage.sequence).order_by(col(StoredMessage.sequence)))).all()
    assert sequences == list(range(1, 2 * calls + 1))
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        assert question.content.removeprefix("question") == answer.content.removeprefix("answer")
    assert len({turn.content for turn in turns}) == 2 * calls
    assert (conversation.turns, conversation.sequence) == (2 * calls, 2 * calls)
    assert conversation.tokens == sum(turn.tokens for turn in turns)


async def test_the_least_recently_used_conversation_is_deleted_beyond_the_limit(database: Database) -> None:
    clock = FakeClock()
    conversations = Conversations(database, PLENTY, max_conversations=3, keys=KEYS, clock=clock)
    caller, other = await make_principal(database), await make_principal(database)
    await add_exchange(conversations, other, "theirs", "Yes.", user("Mine?"))
    for name in ("a", "b", "c", "a", "d"):
        clock.step(1)
        await add_exchange(conversations, caller, name, "Yes.", user("New?"))
    async with database.session() as session:
        left = await ConversationRepository(session, caller, KEYS).list_page(after=None, limit=10)
    assert [conversation.name for conversation in left] == ["d", "c", "a"]
    assert await count(database, StoredMessage) == 2 + 2 + 2 + 4, "their turns are gone too"
    assert len(await remembered(conversations, other, "theirs")) == 2


async def test_pages_of_the_list_miss_and_repeat_nothing_that_is_used_meanwhile(
    database: Database,
) -> None:
    clock = FakeClock()
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=clock), await make_principal(database)
    for number in range(7):
        clock.step(number % 2)  # some are made in the same millisecond
        await add_exchange(conversations, caller, f"s-{number}", "Yes.", user("New?"))
    found: list[str] = []
    after = None
    while True:
        async with database.session() as session:
            page = await ConversationRepository(session, caller, KEYS).list_page(after=after, limit=2)
        if not page:
            break
        found += [conversation.name for conversation in page]
        after = Cursor(page[-1].created_ms, page[-1].name)
        clock.step(1)
        await add_exchange(conversations, caller, "s-1", "Yes.", user("Again?"))
        async with database.session() as session:
            await ConversationRepository(session, caller, KEYS).delete(found[-1])
    assert found == [f"s-{number}" for number in (6, 5, 4, 3, 2, 1, 0)]


async def test_deleting_a_conversation_deletes_its_messages_and_system_prompt(database: Database) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    await add_exchange(conversations, caller, "a", "Yes.", system("Be brief."), user("There?"))
    async with database.session() as session:
        assert await ConversationRepository(session, caller, KEYS).delete("a")
    async with database.session() as session:
        assert not await ConversationRepository(session, caller, KEYS).delete("a")
    assert await remembered(conversations, caller, "a") == ()
    assert await count(database, StoredMessage) == 0


@pytest.mark.parametrize("meanwhile", ["nothing", "another of the same name"])
async def test_a_conversation_deleted_during_a_call_stays_deleted(database: Database, meanwhile: str) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    await add_exchange(conversations, caller, "a", "Noted.", user("Something private."))
    conversation = await conversations.open(caller, "a", (user("What did I say?"),))
    async with database.session() as session:
        assert await ConversationRepository(session, caller, KEYS).delete("a")
    if meanwhile != "nothing":
        await add_exchange(conversations, caller, "a", "Hello.", user("Hello."))
    await conversation.add("Something private.")
    assert "private" not in str(await remembered(conversations, caller, "a"))
    assert await count(database, StoredConversation) == (meanwhile != "nothing")


@pytest.mark.parametrize("answer", ["", " \n"])
async def test_an_answer_without_text_is_not_stored(database: Database, answer: str) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    await add_exchange(conversations, caller, "a", answer, user("Hello?"))
    assert await count(database, StoredConversation) == 0


async def test_an_answer_is_stored_without_characters_that_databases_refuse(database: Database) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    await add_exchange(conversations, caller, "a", "nul:\0 half:\ud800 whole:😀", user("Odd characters?"))
    assert (await remembered(conversations, caller, "a"))[-1] == assistant("nul: half:? whole:😀")


async def test_a_failing_database_does_not_fail_the_answer_and_no_message_is_logged(
    database: Database,
) -> None:
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    conversation = await conversations.open(caller, "a", (system("secret-0"), user("secret-1")))
    async with database.session() as session:
        await (await session.connection()).execute(sa.text("DROP TABLE conversation_turns"))
    with capture_logs() as logs:
        await conversation.add("secret-2")
    assert [line["event"] for line in logs] == ["conversation.not_remembered"]
    assert "secret" not in str(logs)
    assert await count(database, StoredConversation) == 0, "all of it or nothing"


async def test_a_locked_conversation_does_not_delay_the_answer_for_long(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, other = Database(postgres_url), Database(postgres_url)
    conversations, caller = Conversations(database, PLENTY, keys=KEYS, clock=CLOCK), await make_principal(database)
    await add_exchange(conversations, caller, "a", "Yes.", user("There?"))
    conversation = await conversations.open(caller, "a", (user("Still there?"),))
    monkeypatch.setattr(service, "APPEND_TIMEOUT_S", 0.2)
    async with other.session() as session:
        await (await session.connection()).execute(sa.text("SELECT 1 FROM conversations FOR UPDATE"))
        with capture_logs() as logs:
            await conversation.add("Yes.")
    assert [line["event"] for line in logs] == ["conversation.not_remembered"]
    assert await remembered(conversations, caller, "a") == (user("There?"), assistant("Yes."))
    await database.close()
    await other.close()


async def test_without_a_database_no_conversation_can_be_opened() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        database = Database(f"postgresql://x:x@127.0.0.1:{nobody.getsockname()[1]}/x")
        with pytest.raises(DatabaseUnavailable):
            await Conversations(database, PLENTY, keys=KEYS, clock=CLOCK).open(Principal(1, 1, Role.MEMBER, 0), "a", ())
        await database.close()
