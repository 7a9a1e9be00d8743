"""The heads that the server logs verify the audit log later."""

from structlog.testing import capture_logs
from test_verification import ACT, open_chains

from tollkeeper.audit_log.head_log import INTERVAL_S, HeadLog
from tollkeeper.audit_log.log import Head


async def test_the_heads_of_chains_that_were_extended_are_logged(sqlite_url: str) -> None:
    chains = await open_chains(sqlite_url, "key")
    head_log = HeadLog(chains.database, chains.clock)
    assert await head_log.write() == 0
    await chains.add(ACT)
    with capture_logs() as lines:
        assert await head_log.write() == 1
    (noted,) = Head.find_all(str(lines))
    assert [noted] == await chains.heads()
    chains.clock.step(2 * INTERVAL_S)
    assert await head_log.write() == 0
    await chains.add(ACT)
    assert await head_log.write() == 1
    await chains.database.close()
