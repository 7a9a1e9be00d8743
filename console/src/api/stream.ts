/** A streamed call, of POST /ai/chat or of OpenAI's POST /v1/chat/completions. */

import { authorised, type components, result, api } from "./client";
import { type ApiRequest, urlOf } from "./curl";
import { errorOf, readError } from "./problem";
import { eventsOf } from "./sse";

export type FinalEvent = components["schemas"]["FinalEvent"];
export type SettledCharge = components["schemas"]["ChargeResponse"];
type Delta = components["schemas"]["DeltaEvent"];

/** A chunk of OpenAI's API, as far as it is shown. */
interface Chunk {
  choices: { delta: { content?: string | null; tool_calls?: ToolPiece[] } }[];
}
export interface ToolPiece {
  index: number;
  function?: { name?: string; arguments?: string };
}

export interface StreamListener {
  started: (chargeId: string | null) => void;
  text: (piece: string) => void;
  tool: (piece: ToolPiece) => void;
}

/** How a stream has ended: `final` is the last event of the native API; without `isWhole`, it was cut off. */
export interface Ended {
  isWhole: boolean;
  final: FinalEvent | null;
}

const SETTLED_WITHIN_MS = 15_000;
const PAUSE_MS = 150;

/** Make the call. Throws ApiError, and AbortError. */
export async function streamCall(call: ApiRequest, listener: StreamListener, signal: AbortSignal): Promise<Ended> {
  const request = new Request(urlOf(call), {
    method: "POST",
    headers: { ...call.headers, "Content-Type": "application/json" },
    body: JSON.stringify(call.body),
    signal,
  });
  const response = await authorised(request);
  if (!response.ok) throw await readError(response);
  listener.started(response.headers.get("X-Charge-ID"));
  for await (const { data } of eventsOf(response)) {
    if (data === "[DONE]") return { isWhole: true, final: null };
    const event = JSON.parse(data) as Delta | FinalEvent | Chunk | { status: number } | { error: unknown };
    if ("status" in event || "error" in event) {
      throw errorOf("status" in event ? event.status : response.status, event, response.headers.get("X-Correlation-ID"));
    }
    if ("choices" in event) readChunk(event, listener);
    else if (event.content) listener.text(event.content);
    if ("is_final" in event && event.is_final) return { isWhole: true, final: event as FinalEvent };
  }
  return { isWhole: false, final: null };
}

function readChunk(chunk: Chunk, listener: StreamListener): void {
  const delta = chunk.choices[0]?.delta;
  if (delta?.content) listener.text(delta.content);
  for (const piece of delta?.tool_calls ?? []) listener.tool(piece);
}

/** The charge of a call that has ended, as soon as it is settled. Null if that takes too long. */
export async function settledCharge(chargeId: string): Promise<SettledCharge | null> {
  const until = Date.now() + SETTLED_WITHIN_MS;
  while (Date.now() < until) {
    const charge = await result(api.GET("/me/charges/{charge_id}", { params: { path: { charge_id: chargeId } } }));
    if (charge.closed_at !== null) return charge;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  return null;
}
