"""The access log of several processes that write to one pipe."""

import asyncio
from select import PIPE_BUF

from tollkeeper.telemetry.logging import FLUSH_INTERVAL_S, AccessLog


async def test_lines_are_written_whole_in_pieces_that_a_pipe_takes_in_one_go() -> None:
    pieces: list[bytes] = []
    log = AccessLog("info", worker=3, write=pieces.append)
    for number in range(200):
        log.write_line({"event": "call", "number": number, "seconds": 0.1, "text": "x" * (number * 7 % 300)})
    log.write_line({"event": "call", "number": 200, "seconds": 0.1, "text": "x" * 2 * PIPE_BUF})
    await asyncio.sleep(2 * FLUSH_INTERVAL_S)
    written = [piece.decode() for piece in pieces]
    assert [len(text) <= PIPE_BUF for text in written[:-1]] == [True] * (len(written) - 1)
    assert all(text.startswith("{") and text.endswith("}\n") for text in written)
    lines = "".join(written).splitlines()
    assert [f'"number":{number},' in line for number, line in enumerate(lines)] == [True] * 201
    assert all('"worker":3' in line for line in lines)
