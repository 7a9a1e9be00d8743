import { useQueryClient } from "@tanstack/react-query";
import { useRef, useState } from "react";
import type { ApiRequest } from "../api/curl";
import { type FinalEvent, type SettledCharge, settledCharge, streamCall, type ToolPiece } from "../api/stream";
import type { Said } from "../lib/call";

/** A call of a tool that the model asks for. `input` is JSON, as far as it has arrived. */
export interface ToolCall {
  name: string;
  input: string;
}

/** A question and its answer, as far as it has arrived, and what it cost. */
export interface Turn extends Said {
  tools: ToolCall[];
  chargeId: string | null;
  final: FinalEvent | null;
  /** What a call cost that did not end with a final event. */
  charge: SettledCharge | null;
  state: "running" | "done" | "stopped" | "broken" | "failed";
  error: unknown;
}

const NEW_TURN = { tools: [], chargeId: null, final: null, charge: null, state: "running", error: null } as const;

/** The conversation of the playground: one call at a time. */
export function useConversation() {
  const queries = useQueryClient();
  const [turns, setTurns] = useState<Turn[]>([]);
  const controller = useRef<AbortController | null>(null);
  const running = turns.at(-1)?.state === "running";

  function changeLast(change: (turn: Turn) => Partial<Turn>): void {
    setTurns((all) => all.map((turn, at) => (at === all.length - 1 ? { ...turn, ...change(turn) } : turn)));
  }

  async function send(asked: Said, call: ApiRequest): Promise<void> {
    setTurns((all) => [...all, { ...asked, ...NEW_TURN, tools: [] }]);
    controller.current = new AbortController();
    const { signal } = controller.current;
    let charge: string | null = null;
    let final: FinalEvent | null = null;
    const listener = {
      started: (chargeId: string | null) => {
        charge = chargeId;
        changeLast(() => ({ chargeId }));
      },
      text: (piece: string) => changeLast((turn) => ({ answer: turn.answer + piece })),
      tool: (piece: ToolPiece) => changeLast((turn) => ({ tools: withPiece(turn.tools, piece) })),
    };
    try {
      const ended = await streamCall(call, listener, signal);
      final = ended.final;
      changeLast(() => ({ final, state: ended.isWhole ? "done" : "broken" }));
    } catch (error) {
      changeLast(() => (signal.aborted ? { state: "stopped" } : { state: "failed", error }));
    }
    if (final === null && charge !== null) await noteCost(charge);
    await queries.invalidateQueries();
  }

  async function noteCost(chargeId: string): Promise<void> {
    const charge = await settledCharge(chargeId).catch(() => null);
    changeLast(() => ({ charge }));
  }

  /** Go on with what was said before. */
  function resume(said: Said[]): void {
    setTurns(said.map((turn) => ({ ...turn, ...NEW_TURN, tools: [], state: "done" })));
  }

  return { turns, running, send, resume, stop: () => controller.current?.abort(), clear: () => setTurns([]) };
}

/** The calls of tools, with what has arrived of one of them. */
export function withPiece(calls: ToolCall[], { index, function: piece }: ToolPiece): ToolCall[] {
  const call = calls[index] ?? { name: "", input: "" };
  const next = [...calls];
  next[index] = { name: call.name + (piece?.name ?? ""), input: call.input + (piece?.arguments ?? "") };
  return next;
}
