import { Button, Grid, Group, Stack, Textarea } from "@mantine/core";
import { useDebouncedValue, useHotkeys } from "@mantine/hooks";
import { useState } from "react";
import { areTags, attributionHeaders } from "../api/attribution";
import { useRead } from "../api/read";
import { Empty } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { Estimate } from "../components/Estimate";
import { Images } from "../components/Images";
import { Page } from "../components/Page";
import { areTools, Parameters } from "../components/Parameters";
import { QuotaBar } from "../components/QuotaBar";
import { TurnView } from "../components/TurnView";
import { callOf, type Options, withoutBytes } from "../lib/call";
import { strings } from "../strings";
import { useConversation } from "./useConversation";

const words = strings.playground;
const PAUSE_MS = 400;

export function Playground() {
  const [options, setOptions] = useState<Options>({});
  const [question, setQuestion] = useState("");
  const [images, setImages] = useState<string[]>([]);
  const models = useRead("/ai/models");
  const [tags] = useDebouncedValue(areTags(options.tags) ? options.tags : undefined, PAUSE_MS);
  const quota = useRead("/me/quota", { header: attributionHeaders({ group: options.group, tags }) });
  const { turns, running, send, stop, clear } = useConversation();
  const defaultModel = models.data?.data.find((model) => model.default)?.id;
  const callFor = (text: string) => callOf(turns, { question: text, images, answer: "" }, options, defaultModel);
  const isReady = areTools(options.tools) && areTags(options.tags);
  const call = isReady && question.trim() ? callFor(question) : null;

  function ask(): void {
    if (call === null || running) return;
    void send({ question, images, answer: "" }, call);
    setQuestion("");
    setImages([]);
  }
  useHotkeys([["mod+Enter", ask]], []);

  const requests = [models.request, quota.request, ...(isReady ? [withoutBytes(call ?? callFor(words.example))] : [])];
  return (
    <Page title={words.title} intro={words.intro} requests={requests}>
      <Grid>
        <Grid.Col span={{ base: 12, md: 8 }}>
          <Stack>
            {turns.length === 0 && <Empty text={words.empty} />}
            {turns.map((turn, at) => (
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
              <Images images={images} change={setImages} />
              <Estimate call={call} />
              <Group gap="xs">
                {turns.length > 0 && !running && (
                  <Button variant="default" onClick={clear}>
                    {words.clear}
                  </Button>
                )}
                {running ? (
                  <Button color="red" onClick={stop}>
                    {words.stop}
                  </Button>
                ) : (
                  <Button onClick={ask} disabled={call === null}>
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
