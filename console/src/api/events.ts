/** The events of calls, as they happen (GET /admin/events). */

import { useEffect, useState } from "react";
import { apiUrl } from "./base";
import { authorised } from "./client";
import { readError } from "./problem";
import { eventsOf } from "./sse";

/** What an `ai.response` says, as far as the console shows it (docs/events.schema.json). */
export interface CallEvent {
  event_id: string;
  time: string;
  data: {
    surface: string;
    status: string;
    model: { id: string | null };
    tenant: { id: number };
    user: { id: number };
    error: { code: string; refused_by: string | null } | null;
    charge: { id: string; cost_tokens: number } | null;
    durations: { total: number };
  };
}

export interface Tail {
  state: "connecting" | "following" | "lost";
  /** The newest first. */
  events: CallEvent[];
  dropped: number;
  error: unknown;
}

export const MAX_SHOWN = 100;
const RETRY_MS = 2_000;
const NOTHING: Tail = { state: "connecting", events: [], dropped: 0, error: null };

/** The tail with these events before what it has. None of them twice: a stream that begins anew repeats some. */
export function withEvents(tail: Tail, found: CallEvent[]): Tail {
  const known = new Set(tail.events.map((event) => event.event_id));
  const fresh = found.filter((event) => !known.has(event.event_id));
  return { ...tail, state: "following", error: null, events: [...fresh.reverse(), ...tail.events].slice(0, MAX_SHOWN) };
}

/** Follow the events while `active`. A stream that ends, with its login or its server, is opened again. */
export function useEventTail(active: boolean): Tail {
  const [tail, setTail] = useState<Tail>(NOTHING);
  useEffect(() => {
    if (!active) return;
    const stop = new AbortController();
    void keepFollowing(setTail, stop.signal);
    return () => stop.abort();
  }, [active]);
  return tail;
}

type Change = (change: (before: Tail) => Tail) => void;

async function keepFollowing(change: Change, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    let error: unknown = null;
    try {
      await follow(change, signal);
    } catch (failure) {
      error = failure;
    }
    if (signal.aborted) return;
    change((before) => ({ ...before, state: "lost", error }));
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function follow(change: Change, signal: AbortSignal): Promise<void> {
  const response = await authorised(new Request(apiUrl("/admin/events?follow=true"), { signal }));
  if (!response.ok) throw await readError(response);
  change((before) => withEvents(before, []));
  for await (const { event, data } of eventsOf(response)) {
    const parsed = JSON.parse(data) as CallEvent & { events?: number };
    if (event === "dropped") change((before) => ({ ...before, dropped: before.dropped + (parsed.events ?? 0) }));
    else change((before) => withEvents(before, [parsed]));
  }
}
