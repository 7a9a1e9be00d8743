import { Group, Loader, Paper, Stack, Text } from "@mantine/core";
import { count } from "../lib/format";
import { strings } from "../strings";
import { RouterAnchor } from "./RouterAnchor";
import type { Turn } from "../views/useConversation";
import { ErrorNote } from "./ErrorNote";

const words = strings.playground;

/** A question and its answer. Both are text, never markup. */
export function TurnView({ turn }: { turn: Turn }) {
  return (
    <Stack gap="xs" data-testid="turn">
      <Paper withBorder p="sm">
        <Text size="xs" fw={700} c="dimmed">
          {words.you}
        </Text>
        <div className="answer">{turn.question}</div>
      </Paper>
      <Paper withBorder p="sm" aria-busy={turn.state === "running"}>
        <Text size="xs" fw={700} c="dimmed">
          {words.answer}
        </Text>
        <div className="answer" data-testid="answer">
          {turn.answer}
        </div>
        {turn.state === "running" && <Loader size="xs" type="dots" aria-label={strings.common.loading} />}
        <ErrorNote error={turn.error} />
        <Cost turn={turn} />
      </Paper>
    </Stack>
  );
}

function Cost({ turn }: { turn: Turn }) {
  const { final, cost, state, chargeId } = turn;
  return (
    <Group gap="md" mt="xs" data-testid="cost">
      {final && (
        <>
          <Text size="sm" fw={600}>
            {words.cost(count(final.cost), final.cost_usd)}
          </Text>
          <Text size="sm">{words.usage(count(final.usage.input_tokens), count(final.usage.output_tokens))}</Text>
          {final.from_cache && <Text size="sm">{words.fromCache}</Text>}
          {final.quota && <Text size="sm">{words.remaining(count(final.quota.remaining), count(final.quota.limit))}</Text>}
        </>
      )}
      {state === "stopped" && <Text size="sm">{cost === null ? words.stopped : words.stoppedCost(count(cost))}</Text>}
      {state === "broken" && <Text size="sm">{words.broken}</Text>}
      {chargeId && state !== "running" && (
        <RouterAnchor size="sm" to="/charges/$chargeId" params={{ chargeId }}>
          {words.charge}
        </RouterAnchor>
      )}
    </Group>
  );
}
