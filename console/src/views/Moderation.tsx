import { Badge, Button, Group, Skeleton, Text, Textarea, Title } from "@mantine/core";
import { useState } from "react";
import { api, type components, isApiError, result } from "../api/client";
import { ApiError } from "../api/problem";
import { useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Page } from "../components/Page";
import { TenantSelect } from "../components/TenantSelect";
import { count } from "../lib/format";
import { strings } from "../strings";

type Policy = components["schemas"]["PolicyDocument"];
type Rule = Policy["rules"][number];
const words = strings.moderation;
const NOTHING: Policy = { rules: [] };

/** The rules of a tenant, and what they have found. */
export function Moderation() {
  const me = useRead("/me");
  const [tenant, setTenant] = useState<number | undefined>();
  const query = { tenant_id: tenant };
  const policy = useRead("/admin/moderation", { query });
  const counts = useRead("/admin/moderation/counts", { query });
  const [editing, setEditing] = useState(false);
  const [removing, setRemoving] = useState(false);
  const hasNone = isApiError(policy.error) && policy.error.status === 404;
  const present = policy.data && ({ rules: policy.data.rules, window: policy.data.window, service_account: policy.data.service_account } as Policy);
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[policy.request, { method: "PUT", path: "/admin/moderation", params: { query }, body: present ?? NOTHING }, counts.request]}
      actions={
        <>
          <Button onClick={() => setEditing(true)}>{words.edit}</Button>
          {present && (
            <Button variant="default" onClick={() => setRemoving(true)}>
              {words.remove}
            </Button>
          )}
        </>
      }
    >
      {me.data?.role === "operator" && (
        <Group>
          <TenantSelect value={tenant} change={setTenant} />
        </Group>
      )}
      <Title order={2} size="h4">
        {words.rules}
      </Title>
      {policy.isPending && <Skeleton h={120} />}
      {!hasNone && <ErrorNote error={policy.error} />}
      {(present || hasNone) && <Rules rules={present && !hasNone ? present.rules : []} />}
      <Title order={2} size="h4">
        {words.counts}
      </Title>
      <DataTable
        label={words.counts}
        list={{ items: counts.data?.data, error: counts.error }}
        rowKey={(found) => `${found.day} ${found.rule} ${found.stage} ${found.action} ${found.enforced}`}
        empty={words.nothingFound}
        columns={[
          { head: words.day, cell: (found) => found.day },
          { head: words.name, cell: (found) => found.rule },
          { head: words.stages, cell: (found) => found.stage },
          { head: words.action, cell: (found) => found.action },
          { head: words.mode, cell: (found) => <Mode enforced={found.enforced} /> },
          { head: words.calls, numeric: true, cell: (found) => count(found.calls) },
          { head: words.findings, numeric: true, cell: (found) => count(found.findings) },
        ]}
      />
      {editing && <EditPolicy policy={present && !hasNone ? present : NOTHING} tenant={tenant} close={() => setEditing(false)} />}
      <Dialog
        title={words.remove}
        opened={removing}
        close={() => setRemoving(false)}
        submitLabel={words.remove}
        danger
        submit={() => result(api.DELETE("/admin/moderation", { params: { query } }))}
      >
        <Text>{words.removeText}</Text>
      </Dialog>
    </Page>
  );
}

function Mode({ enforced }: { enforced: boolean }) {
  return <Badge variant="default">{enforced ? words.enforced : words.reportOnly}</Badge>;
}

function Rules({ rules }: { rules: Rule[] }) {
  return (
    <DataTable
      label={words.rules}
      list={{ items: rules, error: null }}
      rowKey={(rule) => rule.name}
      empty={words.noPolicy}
      emptyCommand={words.noPolicyCommand}
      columns={[
        { head: words.name, cell: (rule) => rule.name },
        { head: words.finds, cell: (rule) => <Text style={{ overflowWrap: "anywhere" }}>{findsOf(rule)}</Text> },
        { head: words.action, cell: (rule) => rule.action },
        { head: words.stages, cell: (rule) => rule.stages?.join(", ") ?? strings.alerts.every },
        { head: words.mode, cell: (rule) => <Mode enforced={!rule.report_only} /> },
      ]}
    />
  );
}

function findsOf(rule: Rule): string {
  const { pattern, words: listed, pii, classifier } = rule;
  return pattern ?? listed?.join(", ") ?? pii?.join(", ") ?? classifier?.categories?.join(", ") ?? classifier?.model ?? classifier?.provider ?? strings.common.none;
}

function EditPolicy({ policy, tenant, close }: { policy: Policy; tenant: number | undefined; close: () => void }) {
  const [text, setText] = useState(JSON.stringify(policy, null, 2));

  async function submit(): Promise<void> {
    const body = parsed(text);
    if (body === null) throw new ApiError(0, "not_json", words.notJson, null);
    await result(api.PUT("/admin/moderation", { params: { query: { tenant_id: tenant } }, body }));
  }

  return (
    <Dialog title={words.edit} opened close={close} submitLabel={words.save} submit={submit}>
      <Textarea label={words.policy} description={words.policyHint} value={text} onChange={(event) => setText(event.currentTarget.value)} autosize minRows={8} maxRows={20} ff="monospace" data-autofocus />
    </Dialog>
  );
}

function parsed(text: string): Policy | null {
  try {
    const found: unknown = JSON.parse(text);
    return typeof found === "object" && found !== null ? (found as Policy) : null;
  } catch {
    return null;
  }
}
