/** Server-sent events in the body of a response (HTML Living Standard, 9.2.6), as far as this API sends them. */

export interface ServerEvent {
  event: string;
  data: string;
}

/** Takes text in pieces of any size, and returns the events that are complete. */
export class EventParser {
  #rest = "";

  push(text: string): ServerEvent[] {
    const parts = (this.#rest + text).split(/\r\n\r\n|\n\n|\r\r/);
    this.#rest = parts.pop() ?? "";
    return parts.map(parseEvent).filter((event) => event !== null);
  }
}

function parseEvent(block: string): ServerEvent | null {
  let event = "message";
  const data: string[] = [];
  for (const line of block.split(/\r\n|\n|\r/)) {
    const at = line.indexOf(":");
    const field = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
    if (field === "event") event = value;
    if (field === "data") data.push(value);
  }
  return data.length ? { event, data: data.join("\n") } : null;
}

/** The events of a response, as they arrive. */
export async function* eventsOf(response: Response): AsyncGenerator<ServerEvent> {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield* parser.push(value);
  }
}
