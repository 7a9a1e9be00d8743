import { Button, Grid, Group, Skeleton, Stack, Text, Textarea } from "@mantine/core";
import { useDebouncedValue, useHotkeys } from "@mantine/hooks";
import { lazy, Suspense, useState } from "react";
import { areTags, attributionHeaders } from "../api/attribution";
import type { ApiRequest } from "../api/curl";
import { useRead } from "../api/read";
import { Empty } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { Estimate } from "../components/Estimate";
import { Images } from "../components/Images";
import { Page } from "../components/Page";
import { areTools, Parameters } from "../components/Parameters";
import { QuotaBar } from "../components/QuotaBar";
import { TurnView } from "../components/TurnView";
import { callOf, needsCompat, type Options, withoutBytes } from "../lib/call";
import { isName, newName, turnsOf } from "../lib/stored";
import { strings } from "../strings";
import { useConversation } from "./useConversation";

const StoredConversations = lazy(() => import("../components/StoredConversations").then((module) => ({ default: module.StoredConversations })));
const words = strings.playground;
const PAUSE_MS = 400;
const SESSIONS: ApiRequest = { method: "GET", path: "/ai/sessions", params: { query: { limit: 10 } } };

export function Playground() {
  const [options, setOptions] = useState<Options>({});
  const [question, setQuestion] = useState("");
  const [images, setImages] = useState<string[]>([]);
  const models = useRead("/ai/models");
  const [tags] = useDebouncedValue(areTags(options.tags) ? options.tags : undefined, PAUSE_MS);
  const { session } = options;
  const [conversation] = useDebouncedValue(session !== undefined && isName(session) ? session : undefined, PAUSE_MS);
  const quota = useRead("/me/quota", { header: attributionHeaders({ group: options.group, tags }), query: conversation === undefined ? undefined : { session_id: conversation } });
  const { turns, running, send, resume, stop, clear } = useConversation();
  const defaultModel = models.data?.data.find((model) => model.default)?.id;
  const callFor = (text: string) => callOf(turns, { question: text, images, answer: "" }, options, defaultModel);
  const isTextOnly = session === undefined || !needsCompat(turns, images, options);
  const isReady = areTools(options.tools) && areTags(options.tags) && isTextOnly && (session === undefined || isName(session));
  const call = isReady && question.trim() ? callFor(question) : null;

  function goOnWith(name: string | undefined): void {
    setOptions((chosen) => ({ ...chosen, session: name }));
  }

  /** Begin a new conversation, which is stored if the last one was. */
  function begin(): void {
    clear();
    goOnWith(session === undefined ? undefined : newName(new Date()));
  }

  function ask(): void {
    if (call === null || running) return;
    void send({ question, images, answer: "" }, call);
    setQuestion("");
    setImages([]);
  }
  useHotkeys([["mod+Enter", ask]], []);

  const requests = [models.request, quota.request, ...(isReady ? [withoutBytes(call ?? callFor(words.example))] : []), SESSIONS];
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
            {!isTextOnly && (
              <Text size="sm" c="red" role="alert">
                {strings.conversations.textOnly}
              </Text>
            )}
            <Group justify="space-between">
              <Images images={images} change={setImages} />
              <Estimate call={call} />
              <Group gap="xs">
                {turns.length > 0 && !running && (
                  <Button variant="default" onClick={begin}>
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
            <Suspense fallback={<Skeleton h={160} />}>
              <StoredConversations
                name={session}
                hasBegun={turns.length > 0}
                running={running}
                rename={goOnWith}
                open={(found) => {
                  resume(turnsOf(found.messages));
                  goOnWith(found.id);
                }}
                forget={(name) => {
                  if (name === session) begin();
                }}
              />
            </Suspense>
          </Stack>
        </Grid.Col>
      </Grid>
    </Page>
  );
}
