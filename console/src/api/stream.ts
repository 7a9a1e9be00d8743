/** A streamed call of POST /ai/chat. */

import { apiUrl } from "./base";
import { authorised, type components, result, api } from "./client";
import { errorOf, readError } from "./problem";
import { eventsOf } from "./sse";

export type ChatRequest = components["schemas"]["NativeChatRequest"];
export type FinalEvent = components["schemas"]["FinalEvent"];
type Charge = components["schemas"]["ChargeResponse"];
type Delta = components["schemas"]["DeltaEvent"];

export interface StreamListener {
  started: (chargeId: string | null) => void;
  text: (piece: string) => void;
}

const SETTLED_WITHIN_MS = 15_000;
const PAUSE_MS = 150;

/** Make the call. Returns its final event, or null if the stream ended before. Throws ApiError, and AbortError. */
export async function streamChat(body: ChatRequest, listener: StreamListener, signal: AbortSignal): Promise<FinalEvent | null> {
  const request = new Request(apiUrl("/ai/chat"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  const response = await authorised(request);
  if (!response.ok) throw await readError(response);
  listener.started(response.headers.get("X-Charge-ID"));
  for await (const { data } of eventsOf(response)) {
    if (data === "[DONE]") return null;
    const event = JSON.parse(data) as Delta | FinalEvent | { status: number };
    if ("status" in event) throw errorOf(event.status, event, response.headers.get("X-Correlation-ID"));
    if (event.content) listener.text(event.content);
    if (event.is_final) return event as FinalEvent;
  }
  return null;
}

/** The charge of a call that has ended, as soon as it is settled. Null if that takes too long. */
export async function settledCharge(chargeId: string): Promise<Charge | null> {
  const until = Date.now() + SETTLED_WITHIN_MS;
  while (Date.now() < until) {
    const charge = await result(api.GET("/me/charges/{charge_id}", { params: { path: { charge_id: chargeId } } }));
    if (charge.closed_at !== null) return charge;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  return null;
}
