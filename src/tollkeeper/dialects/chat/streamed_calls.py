"""Tells apart the tool calls of a streamed answer. Servers differ in which deltas have an index, an id and a name."""

import msgspec

from tollkeeper.chat import ToolCallDelta
from tollkeeper.dialects.answer_tool_calls import is_whole_object, new_call_id


class CallPiece(msgspec.Struct, frozen=True, gc=False):
    """One delta of a tool call, in the choice number `choice`. `index` and `id` are None or empty if not sent."""

    choice: int
    index: int | None
    id: str | None
    name: str | None
    arguments: str
    custom: bool = False


class _Call:
    """A tool call that has begun."""

    def __init__(self, number: int, piece: CallPiece) -> None:
        self.number = number
        self.id = piece.id
        self.name = piece.name
        self.arguments: list[str] = []

    def rest_of_name(self, piece: CallPiece) -> str | None:
        """What the piece adds to the name, before the arguments begin; None for nothing."""
        if not piece.name or piece.name == self.name or piece.arguments or any(self.arguments):
            return None
        whole = self.name or ""
        rest = piece.name.removeprefix(whole)
        self.name = whole + rest
        return rest


class StreamedCalls:
    """The tool calls of one stream, numbered from 0 over all choices. `count`: how many have begun.

    A piece with an id that is new begins a call, whatever its index. Without an id, a piece continues the call at its
    index, or the latest call if it has no index; it begins a call if there is none, or if its name shows another one.
    """

    def __init__(self) -> None:
        self.count = 0
        self._at: dict[tuple[int, int | None], _Call] = {}
        """The latest call of each choice at each index; at the index None, the latest of all."""
        self._by_id: dict[tuple[int, str, int | None], _Call] = {}

    def read(self, piece: CallPiece) -> ToolCallDelta:
        """The delta. Only the first one of a call has its id and its name, which some servers repeat in every piece.

        Others send the name in pieces, or as far as it is known: a later delta has what is new of it.
        """
        call = self._find(piece)
        if call is not None:
            name = call.rest_of_name(piece)
            call.arguments.append(piece.arguments)
            return ToolCallDelta(call.number, None, name, piece.arguments, piece.custom)
        call = _Call(self.count, piece)
        call.arguments.append(piece.arguments)
        self.count += 1
        self._at[piece.choice, piece.index] = self._at[piece.choice, None] = call
        if piece.id:
            self._by_id[piece.choice, piece.id, piece.index] = self._by_id[piece.choice, piece.id, None] = call
        return ToolCallDelta(call.number, piece.id or new_call_id(), piece.name or "", piece.arguments, piece.custom)

    def _find(self, piece: CallPiece) -> _Call | None:
        """The call that the piece continues; None if it begins one. An id may follow in the second piece."""
        if piece.id and (call := self._by_id.get((piece.choice, piece.id, piece.index))) is not None:
            return call
        call = self._at.get((piece.choice, piece.index))
        if call is None or (piece.id and (call.id or piece.name)):
            return None
        return None if piece.name and _is_another(call, piece) else call


def _is_another(call: _Call, piece: CallPiece) -> bool:
    """Whether a piece with a name, and without an id, begins another call than the one at its index.

    It does if the name is another one, or if the arguments of that call are complete. A name without arguments at the
    explicit index of a call without arguments is a piece of that call's name.
    """
    if piece.name != call.name:
        return piece.index is None or bool(piece.arguments) or any(call.arguments)
    return bool(piece.arguments) and is_whole_object(call.arguments)
