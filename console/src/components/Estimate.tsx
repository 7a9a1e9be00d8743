import { Text } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { api, type components, result } from "../api/client";
import type { ApiRequest } from "../api/curl";
import { count } from "../lib/format";
import { strings } from "../strings";

type Chat = components["schemas"]["NativeChatRequest"];
type EstimateBody = Omit<Chat, "messages" | "message"> & { messages: NonNullable<Chat["messages"]> };
const words = strings.playground;
const PAUSE_MS = 400;

/** What a call would hold, asked while the user types. Calls of OpenAI's API have no estimate. */
export function Estimate({ call }: { call: ApiRequest | null }) {
  const body = call?.path === "/ai/chat" ? (call.body as EstimateBody) : null;
  const [wanted] = useDebouncedValue(body === null ? "" : JSON.stringify({ ...body, stream: false }), PAUSE_MS);
  const estimate = useQuery({
    queryKey: ["/ai/estimate", wanted, call?.headers],
    queryFn: () => result(api.POST("/ai/estimate", { body: JSON.parse(wanted) as EstimateBody, headers: call?.headers })),
    enabled: wanted !== "",
  });
  if (call !== null && body === null) return <Text size="sm">{words.noEstimate}</Text>;
  if (body === null || estimate.data === undefined) return <Text size="sm">&nbsp;</Text>;
  const { hold, hold_usd: usd, fits } = estimate.data;
  return (
    <Text size="sm" data-testid="estimate">
      {words.estimate(count(hold), usd)}, {fits ? words.fits : words.doesNotFit}
    </Text>
  );
}
