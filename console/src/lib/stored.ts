/** Conversations that the server stores: their names, and their messages as turns. */

import type { components } from "../api/client";
import type { Said } from "./call";

type StoredMessage = components["schemas"]["MessageResponse"];

/** The API takes no other names. */
const NAME = /^[A-Za-z0-9_.-]{1,100}$/;

export function isName(name: string): boolean {
  return NAME.test(name);
}

/** The name of a conversation that begins now, in UTC. */
export function newName(now: Date): string {
  return `chat-${now.toISOString().slice(0, 19).replaceAll(":", "")}`;
}

/** Questions with their answers. Of several questions before an answer, it belongs to the last one. */
export function turnsOf(messages: StoredMessage[]): Said[] {
  const turns: Said[] = [];
  for (const { role, content } of messages) {
    const last = turns.at(-1);
    if (role === "assistant" && last?.answer === "") last.answer = content;
    else turns.push({ question: role === "user" ? content : "", images: [], answer: role === "user" ? "" : content });
  }
  return turns;
}
