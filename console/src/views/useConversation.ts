import { useQueryClient } from "@tanstack/react-query";
import { useRef, useState } from "react";
import { type ChatRequest, type FinalEvent, settledCharge, streamChat } from "../api/stream";

/** A question and its answer, as far as it has arrived, and what it cost. */
export interface Turn {
  question: string;
  answer: string;
  chargeId: string | null;
  final: FinalEvent | null;
  /** What a call cost that did not end with its final event. */
  cost: number | null;
  state: "running" | "done" | "stopped" | "broken" | "failed";
  error: unknown;
}

export type Options = Omit<ChatRequest, "messages" | "message" | "stream">;

const NEW_TURN = { answer: "", chargeId: null, final: null, cost: null, state: "running", error: null } as const;

/** The messages of the conversation so far, and a new one. Turns without an answer are left out. */
export function messagesOf(turns: Turn[], question: string): NonNullable<ChatRequest["messages"]> {
  const before = turns
    .filter((turn) => turn.answer !== "")
    .flatMap((turn) => [
      { role: "user" as const, content: turn.question },
      { role: "assistant" as const, content: turn.answer },
    ]);
  return [...before, { role: "user", content: question }];
}

/** The conversation of the playground: one call at a time. */
export function useConversation() {
  const queries = useQueryClient();
  const [turns, setTurns] = useState<Turn[]>([]);
  const controller = useRef<AbortController | null>(null);
  const running = turns.at(-1)?.state === "running";

  function changeLast(change: (turn: Turn) => Partial<Turn>): void {
    setTurns((all) => all.map((turn, at) => (at === all.length - 1 ? { ...turn, ...change(turn) } : turn)));
  }

  async function send(question: string, options: Options): Promise<void> {
    const messages = messagesOf(turns, question);
    setTurns((all) => [...all, { ...NEW_TURN, question }]);
    controller.current = new AbortController();
    const { signal } = controller.current;
    let charge: string | null = null;
    const listener = {
      started: (chargeId: string | null) => {
        charge = chargeId;
        changeLast(() => ({ chargeId }));
      },
      text: (piece: string) => changeLast((turn) => ({ answer: turn.answer + piece })),
    };
    try {
      const final = await streamChat({ ...options, messages }, listener, signal);
      changeLast(() => (final ? { final, state: "done" } : { state: "broken" }));
    } catch (error) {
      changeLast(() => (signal.aborted ? { state: "stopped" } : { state: "failed", error }));
      if (charge !== null) await noteCost(charge);
    }
    await queries.invalidateQueries();
  }

  async function noteCost(chargeId: string): Promise<void> {
    const settled = await settledCharge(chargeId).catch(() => null);
    if (settled !== null) changeLast(() => ({ cost: settled.cost }));
  }

  return { turns, running, send, stop: () => controller.current?.abort(), clear: () => setTurns([]) };
}
