import { Button, Group, NumberInput, Paper, Progress, Stack, Text, TextInput, Title } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { api, type components, result } from "../api/client";
import { useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { RouterAnchor } from "../components/RouterAnchor";
import { count } from "../lib/format";
import { strings } from "../strings";
import { CHARGE_COLUMNS } from "./Charges";

type Verification = components["schemas"]["VerificationResponse"];
const words = strings.ledger;
const EVERY_MS = 1_000;
const whileRunning = (read: Verification | undefined) => (read?.state === "running" ? EVERY_MS : false);

export function Ledger() {
  const ledger = useRead("/admin/ledger/verify", undefined, { every: whileRunning });
  const audit = useRead("/admin/audit/verify", undefined, { every: whileRunning });
  const [tenant, setTenant] = useState<number | string>("");
  const [user, setUser] = useState<number | string>("");
  const query = { tenant_id: tenant === "" ? undefined : Number(tenant), user_id: user === "" ? undefined : Number(user) };
  const charges = useList("/admin/charges", { query });
  return (
    <Page title={words.title} intro={words.intro} requests={[ledger.request, { method: "POST", path: "/admin/ledger/verify" }, charges.request]}>
      <Group align="start" grow preventGrowOverflow={false}>
        <VerificationPanel
          title={words.verify}
          verification={ledger.data}
          error={ledger.error}
          start={() => result(api.POST("/admin/ledger/verify", {}))}
        />
        <VerificationPanel
          title={words.verifyAudit}
          verification={audit.data}
          error={audit.error}
          start={() => result(api.POST("/admin/audit/verify", {}))}
        />
      </Group>
      <FindCharge />
      <Title order={2} size="h4">
        {words.charges}
      </Title>
      <Group>
        <NumberInput label={words.tenantId} min={1} value={tenant} onChange={setTenant} />
        <NumberInput label={words.userId} min={1} value={user} onChange={setUser} />
      </Group>
      <DataTable
        label={words.charges}
        list={charges}
        rowKey={(charge) => charge.id}
        empty={words.empty}
        columns={[
          {
            head: strings.charges.open,
            cell: (charge) => (
              <RouterAnchor to="/ledger/$chargeId" params={{ chargeId: charge.id }}>
                {words.show}
              </RouterAnchor>
            ),
          },
          { head: words.userId, cell: (charge) => charge.user_id },
          { head: strings.charges.when, cell: (charge) => <Moment at={charge.created_at} /> },
          ...CHARGE_COLUMNS.slice(1),
        ]}
      />
    </Page>
  );
}

interface VerificationPanelProps {
  title: string;
  verification: Verification | undefined;
  error: unknown;
  start: () => Promise<unknown>;
}

function VerificationPanel({ title, verification, error, start }: VerificationPanelProps) {
  const queries = useQueryClient();
  const act = useMutation({ mutationFn: start, onSuccess: () => queries.invalidateQueries() });
  const state = verification?.state ?? "none";
  const problems = verification?.report?.problem_count;
  return (
    <Paper withBorder p="md" miw={280} data-testid="verification">
      <Stack gap="xs">
        <Title order={2} size="h4">
          {title}
        </Title>
        <Text size="sm">{words.states[state] ?? state}</Text>
        {state === "running" && <Running since={verification?.started_at ?? null} progress={verification?.progress ?? null} />}
        {typeof problems === "number" && <Text fw={700}>{problems === 0 ? words.clean : words.problems(problems)}</Text>}
        <Counted report={verification?.report} />
        {verification?.finished_at && (
          <Text size="sm">
            {words.finished}: <Moment at={verification.finished_at} />
          </Text>
        )}
        {verification?.error && <Text size="sm">{verification.error}</Text>}
        <ErrorNote error={error ?? act.error} />
        <Group>
          <Button onClick={() => act.mutate()} loading={act.isPending} disabled={state === "running"}>
            {title}
          </Button>
        </Group>
      </Stack>
    </Paper>
  );
}

/** That a verification runs, for how long, and how far it is once it has checked something. */
function Running({ since, progress }: { since: string | null; progress: Verification["progress"] }) {
  const seconds = since === null ? 0 : Math.max(0, Math.round((Date.now() - new Date(since).getTime()) / 1_000));
  const share = progress?.share ?? null;
  return (
    <>
      <Progress value={share === null ? 100 : share * 100} animated aria-label={words.states.running} />
      <Text size="sm">
        {share !== null && `${strings.verification.progress(Math.floor(share * 100))} · `}
        {strings.verification.running(seconds)}
      </Text>
      {Object.entries(progress?.checked ?? {}).map(([name, checked]) => (
        <Text key={name} size="sm">
          {strings.verification.of(name, count(checked), count(progress?.about[name] ?? checked))}
        </Text>
      ))}
    </>
  );
}

/** What a verification has counted. */
function Counted({ report }: { report: Verification["report"] | undefined }) {
  const counts = Object.entries(report ?? {}).filter(([name, value]) => typeof value === "number" && name !== "problem_count");
  return counts.map(([name, value]) => (
    <Text key={name} size="sm">
      {strings.verification.counted(name.replaceAll("_", " "), count(Number(value)))}
    </Text>
  ));
}

function FindCharge() {
  const navigate = useNavigate();
  const [id, setId] = useState("");
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void navigate({ to: "/ledger/$chargeId", params: { chargeId: id.trim() } });
      }}
    >
      <Group align="end">
        <TextInput label={words.find} description={words.findHint} value={id} onChange={(event) => setId(event.currentTarget.value)} required w={360} maw="100%" />
        <Button type="submit">{words.show}</Button>
      </Group>
    </form>
  );
}
