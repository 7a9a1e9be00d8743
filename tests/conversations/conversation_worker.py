"""A separate process that continues a conversation with several calls at once.

Run as `python conversation_worker.py DATABASE_URL TENANT_ID USER_ID NAME SPEAKER CALLS`.
"""

import asyncio
import sys

import tollkeeper.identity.models  # noqa: F401 - the tables that conversations refer to
from support.encryption import make_data_keys
from tollkeeper.chat import Message
from tollkeeper.clock import SystemClock
from tollkeeper.conversations import Conversations, service
from tollkeeper.database.engine import Database
from tollkeeper.principal import Principal, Role

AT_ONCE = 4
service.APPEND_TIMEOUT_S = 60.0  # on a busy machine, each of the calls at once waits for the others


async def converse(database: Database, caller: Principal, name: str, speaker: str, calls: int) -> None:
    conversations = Conversations(database, 1_000_000, keys=make_data_keys(), clock=SystemClock())
    room = asyncio.Semaphore(AT_ONCE)

    async def call(number: int) -> None:
        async with room:
            turns = (Message("user", f"question {speaker} {number}"),)
            conversation = await conversations.open(caller, name, turns)
            await conversation.add(f"answer {speaker} {number}")

    await asyncio.gather(*map(call, range(calls)))


async def main(database_url: str, tenant_id: str, user_id: str, name: str, speaker: str, calls: str) -> None:
    database = Database(database_url)
    try:
        caller = Principal(int(user_id), int(tenant_id), Role.MEMBER, 0)
        await converse(database, caller, name, speaker, int(calls))
    finally:
        await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
