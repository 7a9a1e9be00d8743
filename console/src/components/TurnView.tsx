import { Code, Group, Image, List, Loader, Paper, Stack, Text } from "@mantine/core";
import { count } from "../lib/format";
import { strings } from "../strings";
import type { ToolCall, Turn } from "../views/useConversation";
import { ErrorNote } from "./ErrorNote";
import { RouterAnchor } from "./RouterAnchor";

const words = strings.playground;
type Sources = NonNullable<NonNullable<Turn["final"]>["sources"]>;

/** A question and its answer. Both are text, never markup. */
export function TurnView({ turn }: { turn: Turn }) {
  return (
    <Stack gap="xs" data-testid="turn">
      <Paper withBorder p="sm">
        <Text size="xs" fw={700} c="dimmed">
          {words.you}
        </Text>
        <div className="answer">{turn.question}</div>
        <Group gap="xs">
          {turn.images.map((url, at) => (
            <Image key={at} src={url} alt={words.image(at + 1)} mah={160} w="auto" maw="100%" />
          ))}
        </Group>
      </Paper>
      <Paper withBorder p="sm" aria-busy={turn.state === "running"}>
        <Text size="xs" fw={700} c="dimmed">
          {words.answer}
        </Text>
        <div className="answer" data-testid="answer">
          {turn.answer}
        </div>
        {turn.tools.map((call, at) => (
          <ToolCallView key={at} call={call} />
        ))}
        {turn.state === "running" && <Loader size="xs" type="dots" aria-label={strings.common.loading} />}
        {turn.final?.sources && <SourceList sources={turn.final.sources} />}
        <ErrorNote error={turn.error} />
        <Cost turn={turn} />
      </Paper>
    </Stack>
  );
}

function ToolCallView({ call }: { call: ToolCall }) {
  return (
    <div data-testid="tool">
      <Text size="sm" fw={600}>
        {words.toolCall(call.name)}
      </Text>
      <Code block>{indented(call.input)}</Code>
    </div>
  );
}

/** JSON with a line for each member; as it is while it is not whole. */
function indented(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** The passages that the model was given, by the numbers by which it may name them. */
function SourceList({ sources }: { sources: Sources }) {
  if (sources.length === 0) return <Text size="sm">{words.noSources}</Text>;
  return (
    <div data-testid="sources">
      <Text size="sm" fw={600} mt="xs">
        {words.sources}
      </Text>
      <List type="ordered" size="sm">
        {sources.map((source) => (
          <List.Item key={`${source.document_id} ${source.chunk}`}>
            {words.source(source.name, source.chunk + 1)}
            <Text size="sm" c="dimmed" className="answer">
              {source.quote}
            </Text>
          </List.Item>
        ))}
      </List>
    </div>
  );
}

function Cost({ turn }: { turn: Turn }) {
  const { final, charge, state, chargeId } = turn;
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
      {state === "done" && charge && (
        <>
          <Text size="sm" fw={600}>
            {words.cost(count(charge.cost), charge.cost_usd)}
          </Text>
          <Text size="sm">{words.usage(count(charge.input_tokens ?? 0), count(charge.output_tokens ?? 0))}</Text>
        </>
      )}
      {state === "stopped" && <Text size="sm">{charge === null ? words.stopped : words.stoppedCost(count(charge.cost))}</Text>}
      {state === "broken" && <Text size="sm">{words.broken}</Text>}
      {chargeId && state !== "running" && (
        <RouterAnchor size="sm" to="/charges/$chargeId" params={{ chargeId }}>
          {words.charge}
        </RouterAnchor>
      )}
    </Group>
  );
}
