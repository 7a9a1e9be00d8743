import { Alert, Button, Group, NumberInput, Paper, Select, Stack, TextInput } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, type components, result } from "../api/client";
import { asCurl } from "../api/curl";
import { useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { count } from "../lib/format";
import { ownTokenWindows } from "../lib/quotas";
import { strings } from "../strings";

type Ask = components["schemas"]["AskForQuotaRequest"];
const words = strings.requests;
const ASKING = { method: "POST", path: "/me/quota/requests", body: { tokens: 50_000, reason: words.example } } as const;
export const WINDOWS = ["minute", "hour", "day", "week", "month", "total"] as const;

export function Requests() {
  const requests = useList("/me/quota/requests");
  return (
    <Page title={words.title} intro={words.intro} requests={[requests.request, ASKING]}>
      <AskForm />
      <DataTable
        label={words.title}
        list={requests}
        rowKey={(request) => request.id}
        empty={words.empty}
        emptyCommand={asCurl(ASKING)}
        columns={[
          { head: strings.common.created, cell: (request) => <Moment at={request.created_at} /> },
          { head: words.tokens, numeric: true, cell: (request) => count(request.tokens) },
          { head: words.window, cell: (request) => request.window },
          { head: words.why, cell: (request) => request.reason },
          { head: strings.common.status, cell: (request) => words.statusNames[request.status] ?? request.status },
          { head: words.granted, numeric: true, cell: (request) => (request.granted_tokens === null ? "–" : count(request.granted_tokens)) },
          { head: words.decision, cell: (request) => request.decision_reason ?? "–" },
        ]}
      />
    </Page>
  );
}

function AskForm() {
  const queries = useQueryClient();
  const quota = useRead("/me/quota");
  const windows = ownTokenWindows(quota.data?.quotas ?? []);
  const [tokens, setTokens] = useState<number | string>("");
  const [window, setWindow] = useState<string | null>(null);
  const [reason, setReason] = useState("");
  const ask = useMutation({
    mutationFn: () => {
      const body: Ask = { tokens: Number(tokens), reason, window: (window ?? undefined) as Ask["window"] };
      return result(api.POST("/me/quota/requests", { body }));
    },
    onSuccess: () => queries.invalidateQueries(),
  });
  return (
    <Paper withBorder p="md">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          ask.mutate();
        }}
      >
        <Stack>
          <Group align="start" grow>
            <NumberInput label={words.tokens} min={1} allowDecimal={false} thousandSeparator value={tokens} onChange={setTokens} required />
            <Select label={words.window} description={words.windowHint} inputWrapperOrder={["label", "input", "description"]} data={windows} value={window} onChange={setWindow} clearable />
          </Group>
          <TextInput label={words.why} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required />
          <ErrorNote error={ask.error} />
          {ask.isSuccess && <Alert color="green">{words.sent}</Alert>}
          <Group>
            <Button type="submit" loading={ask.isPending}>
              {words.submit}
            </Button>
          </Group>
        </Stack>
      </form>
    </Paper>
  );
}
