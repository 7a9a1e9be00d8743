/** A turn of the conversation, as the request that makes the call. */

import { type Attribution, attributionHeaders } from "../api/attribution";
import type { components } from "../api/client";
import type { ApiRequest } from "../api/curl";

type NativeChat = components["schemas"]["NativeChatRequest"];
type Message = NonNullable<NativeChat["messages"]>[number];

/** What was said before, as far as a later call repeats it. `images` are data URLs. */
export interface Said {
  question: string;
  images: string[];
  answer: string;
}

export interface Options extends Attribution, Pick<NativeChat, "model" | "system_prompt" | "max_tokens" | "temperature"> {
  /** Whether the answer is given from the documents that the user may read. */
  retrieve?: boolean;
  /** The name of the conversation that the server stores. It knows the messages before. */
  session?: string;
  /** The tools that the model may call: JSON, as OpenAI's API has them. */
  tools?: string;
}

/** The messages so far and a new one. Turns without an answer are left out. */
export function messagesOf(before: Said[], question: string): Message[] {
  const answered = before.filter((turn) => turn.answer !== "");
  return [
    ...answered.flatMap((turn): Message[] => [
      { role: "user", content: turn.question },
      { role: "assistant", content: turn.answer },
    ]),
    { role: "user", content: question },
  ];
}

/** The array of tools in a text; undefined if it is empty. Throws SyntaxError for what is none. */
export function toolsIn(text: string | undefined): unknown[] | undefined {
  if (!text?.trim()) return undefined;
  const tools: unknown = JSON.parse(text);
  if (!Array.isArray(tools)) throw new SyntaxError("not an array");
  return tools.length ? tools : undefined;
}

/** Whether the call needs what the native API does not have: images or tools. */
export function needsCompat(before: Said[], images: string[], options: Options): boolean {
  return images.length > 0 || before.some((turn) => turn.images.length > 0) || Boolean(options.tools?.trim());
}

/** The request of a turn: of the native API, or of OpenAI's for images and tools. Throws SyntaxError for bad tools. */
export function callOf(before: Said[], asked: Said, options: Options, defaultModel: string | undefined): ApiRequest {
  const { tools, group, tags, retrieve, session, ...native } = options;
  const headers = attributionHeaders({ group, tags });
  if (!needsCompat(before, asked.images, options)) {
    const chosen = { ...(retrieve ? { retrieve } : {}), ...(session ? { session_id: session } : {}) };
    const body: NativeChat = { ...native, ...chosen, messages: messagesOf(session ? [] : before, asked.question), stream: true };
    return { method: "POST", path: "/ai/chat", headers, body };
  }
  const { system_prompt: system, model = defaultModel, ...limits } = native;
  const said = before.filter((turn) => turn.answer !== "");
  const messages = [
    ...(system ? [{ role: "system", content: system }] : []),
    ...said.flatMap((turn) => [
      { role: "user", content: partsOf(turn) },
      { role: "assistant", content: turn.answer },
    ]),
    { role: "user", content: partsOf(asked) },
  ];
  return { method: "POST", path: "/v1/chat/completions", headers, body: { ...limits, model, messages, tools: toolsIn(tools), stream: true } };
}

function partsOf({ question, images }: Said): unknown {
  if (images.length === 0) return question;
  return [{ type: "text", text: question }, ...images.map((url) => ({ type: "image_url", image_url: { url } }))];
}

/** The same request without the bytes of images, to be shown: `BASE64` stands for them. */
export function withoutBytes(request: ApiRequest): ApiRequest {
  const body: unknown = JSON.parse(JSON.stringify(request.body ?? null), (_, value: unknown) =>
    typeof value === "string" && value.startsWith("data:image/") ? value.replace(/,.*/s, ",BASE64") : value,
  );
  return { ...request, body };
}
