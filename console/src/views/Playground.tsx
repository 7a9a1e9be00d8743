import { Button, Grid, Group, NumberInput, Paper, Select, Stack, Text, Textarea } from "@mantine/core";
import { useDebouncedValue, useHotkeys } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, result } from "../api/client";
import { useRead } from "../api/read";
import { Empty } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { Page } from "../components/Page";
import { QuotaBar } from "../components/QuotaBar";
import { TurnView } from "../components/TurnView";
import { count } from "../lib/format";
import { strings } from "../strings";
import { messagesOf, type Options, useConversation } from "./useConversation";

const words = strings.playground;
const PAUSE_MS = 400;

export function Playground() {
  const models = useRead("/ai/models");
  const quota = useRead("/me/quota");
  const conversation = useConversation();
  const [options, setOptions] = useState<Options>({});
  const [question, setQuestion] = useState("");
  const messages = messagesOf(conversation.turns, question);

  function send(): void {
    if (!question.trim() || conversation.running) return;
    void conversation.send(question, options);
    setQuestion("");
  }
  useHotkeys([["mod+Enter", send]], []);

  const requests = [
    models.request,
    quota.request,
    { method: "POST", path: "/ai/chat", body: { ...options, messages: question ? messages : [{ role: "user", content: "Good morning" }] } } as const,
  ];
  return (
    <Page title={words.title} intro={words.intro} requests={requests}>
      <Grid>
        <Grid.Col span={{ base: 12, md: 8 }}>
          <Stack>
            {conversation.turns.length === 0 && <Empty text={words.empty} />}
            {conversation.turns.map((turn, at) => (
              <TurnView key={at} turn={turn} />
            ))}
            <Textarea
              label={words.message}
              placeholder={words.placeholder}
              value={question}
              onChange={(event) => setQuestion(event.currentTarget.value)}
              autosize
              minRows={3}
              maxRows={12}
            />
            <Group justify="space-between">
              <Estimate options={options} messages={messages} enabled={question.trim() !== ""} />
              <Group gap="xs">
                {conversation.turns.length > 0 && !conversation.running && (
                  <Button variant="default" onClick={conversation.clear}>
                    {words.clear}
                  </Button>
                )}
                {conversation.running ? (
                  <Button color="red" onClick={conversation.stop}>
                    {words.stop}
                  </Button>
                ) : (
                  <Button onClick={send} disabled={!question.trim()}>
                    {words.send}
                  </Button>
                )}
              </Group>
            </Group>
          </Stack>
        </Grid.Col>
        <Grid.Col span={{ base: 12, md: 4 }}>
          <Stack>
            {quota.data?.quotas.map((each) => <QuotaBar key={`${each.name} ${each.unit} ${each.window}`} quota={each} />)}
            <ErrorNote error={models.error ?? quota.error} />
            <Parameters models={models.data?.data ?? []} options={options} change={setOptions} />
          </Stack>
        </Grid.Col>
      </Grid>
    </Page>
  );
}

interface ParametersProps {
  models: { id: string; default: boolean }[];
  options: Options;
  change: (options: Options) => void;
}

function Parameters({ models, options, change }: ParametersProps) {
  return (
    <Paper withBorder p="md">
      <Stack gap="xs">
        <Select
          label={words.model}
          data={models.map((model) => model.id)}
          placeholder={models.find((model) => model.default)?.id}
          value={options.model ?? null}
          onChange={(model) => change({ ...options, model: model ?? undefined })}
          searchable
          clearable
          limit={100}
        />
        <Textarea
          label={words.system}
          value={options.system_prompt ?? ""}
          onChange={(event) => change({ ...options, system_prompt: event.currentTarget.value || undefined })}
          autosize
          minRows={2}
          maxRows={6}
        />
        <NumberInput
          label={words.maxTokens}
          min={1}
          max={1_000_000}
          allowDecimal={false}
          value={options.max_tokens ?? ""}
          onChange={(value) => change({ ...options, max_tokens: value === "" ? undefined : Number(value) })}
        />
        <NumberInput
          label={words.temperature}
          min={0}
          max={2}
          step={0.1}
          value={options.temperature ?? ""}
          onChange={(value) => change({ ...options, temperature: value === "" ? undefined : Number(value) })}
        />
      </Stack>
    </Paper>
  );
}

interface EstimateProps {
  options: Options;
  messages: ReturnType<typeof messagesOf>;
  enabled: boolean;
}

/** What the call would hold, asked while the user types. */
function Estimate({ options, messages, enabled }: EstimateProps) {
  const [body] = useDebouncedValue({ ...options, messages }, PAUSE_MS);
  const estimate = useQuery({
    queryKey: ["/ai/estimate", JSON.stringify(body)],
    queryFn: () => result(api.POST("/ai/estimate", { body })),
    enabled: enabled && body.messages.at(-1)?.content.trim() !== "",
  });
  if (!enabled || estimate.data === undefined) return <Text size="sm">&nbsp;</Text>;
  const { hold, hold_usd: usd, fits } = estimate.data;
  return (
    <Text size="sm" data-testid="estimate">
      {words.estimate(count(hold), usd)}, {fits ? words.fits : words.doesNotFit}
    </Text>
  );
}
