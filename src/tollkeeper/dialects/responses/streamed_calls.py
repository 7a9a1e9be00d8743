"""Tells apart the tool calls of a streamed answer, and joins what several events tell about one call."""

from tollkeeper.chat import Delta, ToolCallDelta
from tollkeeper.dialects.answer_tool_calls import new_call_id
from tollkeeper.dialects.responses.answer_reader import OutputItem


class _Call:
    """A tool call that has begun. `ids` are those of its item and of itself; `ended`: its item has ended."""

    def __init__(self, number: int, index: int | None, *, custom: bool) -> None:
        self.number = number
        self.index = index
        self.custom = custom
        self.ids: set[str] = set()
        self.arguments: list[str] = []
        self.ended = False


class StreamedCalls:
    """The tool calls of one stream, numbered from 0 in the order of their first events.

    An event belongs to the call with the same id; without one, to the latest call at its output index that has not
    ended.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    @property
    def count(self) -> int:
        """How many calls have begun."""
        return len(self._calls)

    def start(self, item: OutputItem, index: int | None) -> list[Delta]:
        """The deltas of an item that begins; none if its call has begun."""
        return [] if self._with_ids(item.call_id, item.id) is not None else [self._begin(item, index)]

    def end(self, item: OutputItem, index: int | None) -> list[Delta]:
        """The deltas of an item that is whole: what was not received of it."""
        return self._end(self._with_ids(item.call_id, item.id) or self._open_at(index), item, index)

    def finish(self, items: list[OutputItem]) -> list[Delta]:
        """The deltas of all items of the whole response: what was not received of its calls.

        Items whose ids are not known are the calls that no item is known of, in their order.
        """
        deltas, others, remaining = [], [], list(self._calls)
        for item in filter(lambda item: item.is_call, items):
            call = self._with_ids(item.call_id, item.id)
            if call in remaining:
                remaining.remove(call)
                deltas += self._end(call, item, call.index)
            else:
                others.append(item)
        for item in others:
            deltas += self._end(remaining.pop(0) if remaining else None, item, None)
        return deltas

    def delta(self, item_id: str | None, index: int | None, arguments: str, *, custom: bool) -> Delta:
        """The delta of some more arguments."""
        call = self._with_ids(item_id) or self._open_at(index)
        if call is None:
            call = self._add(index, custom=custom)
        call.arguments.append(arguments)
        return ToolCallDelta(call.number, None, None, arguments, call.custom)

    def rest(self, item_id: str | None, index: int | None, arguments: str, *, custom: bool) -> list[Delta]:
        """The deltas of all arguments: what was not received of them."""
        call = self._with_ids(item_id) or self._open_at(index)
        if call is None and arguments and not any(one.index == index for one in self._calls):
            call = self._add(index, custom=custom)
        return [] if call is None else self._rest(call, arguments)

    def _end(self, call: _Call | None, item: OutputItem, index: int | None) -> list[Delta]:
        if call is None:
            begun = self._begin(item, index)
            self._calls[-1].ended = True
            return [begun]
        call.ended = True
        return self._rest(call, item.tool_call.arguments)

    def _begin(self, item: OutputItem, index: int | None) -> Delta:
        call_id, name, arguments, custom = item.tool_call[:4]
        call = self._add(index, custom=custom)
        call.ids = {one for one in (item.call_id, item.id) if one}
        call.arguments.append(arguments)
        return ToolCallDelta(call.number, call_id or new_call_id(), name, arguments, custom)

    def _add(self, index: int | None, *, custom: bool) -> _Call:
        call = _Call(len(self._calls), index, custom=custom)
        self._calls.append(call)
        return call

    def _rest(self, call: _Call, arguments: str) -> list[Delta]:
        received = "".join(call.arguments)
        if len(arguments) <= len(received) or not arguments.startswith(received):
            return []
        call.arguments.append(arguments[len(received) :])
        return [ToolCallDelta(call.number, None, None, call.arguments[-1], call.custom)]

    def _with_ids(self, *ids: str | None) -> _Call | None:
        """The call with the first of the ids that one has."""
        return next((call for one in ids if one for call in self._calls if one in call.ids), None)

    def _open_at(self, index: int | None) -> _Call | None:
        return next((call for call in reversed(self._calls) if call.index == index and not call.ended), None)
