import { Button, Group, Select, TextInput, Title } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, type components, newKey, result } from "../api/client";
import { type Item, useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { TenantSelect } from "../components/TenantSelect";
import { amount, unitName } from "../lib/format";
import { strings } from "../strings";

type CreateRule = components["schemas"]["CreateAlertRuleRequest"];
type Rule = Item<"/admin/alerts/rules">;
const words = strings.alerts;
const KINDS = ["tenant", "user", "key", "group"] as const;

/** The rules that say when an alert fires, and what has fired. */
export function Alerts() {
  const me = useRead("/me");
  const [tenant, setTenant] = useState<number | undefined>();
  const query = { tenant_id: tenant };
  const rules = useList("/admin/alerts/rules", { query });
  const fired = useList("/admin/alerts", { query });
  const people = useList("/admin/users", { query: { tenant_id: tenant, limit: 100 } });
  const emails = new Map(people.items?.map((person) => [person.id, person.email]));
  const [creating, setCreating] = useState(false);
  const whose = (kind: string | null, user: number | null) => (user === null ? (words.kinds[kind ?? ""] ?? words.every) : (emails.get(user) ?? strings.budgets.user(user)));
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[rules.request, fired.request, { method: "POST", path: "/admin/alerts/rules", body: { percents: [80, 100] } }]}
      actions={<Button onClick={() => setCreating(true)}>{words.create}</Button>}
    >
      {me.data?.role === "operator" && (
        <Group>
          <TenantSelect value={tenant} change={setTenant} />
        </Group>
      )}
      <Title order={2} size="h4">
        {words.fired}
      </Title>
      <DataTable
        label={words.fired}
        list={fired}
        rowKey={(alert) => alert.id}
        empty={words.noneFired}
        columns={[
          { head: strings.common.created, cell: (alert) => <Moment at={alert.created_at} /> },
          { head: words.kind, cell: (alert) => whose(alert.kind, alert.user_id) },
          { head: words.quota, cell: (alert) => `${unitName(alert.unit)} ${strings.quota.window(alert.window)}` },
          { head: words.share, numeric: true, cell: (alert) => `${alert.percent} %` },
          { head: words.used, numeric: true, cell: (alert) => words.of(amount(alert.used, alert.unit), amount(alert.limit, alert.unit)) },
        ]}
      />
      <Title order={2} size="h4">
        {words.rules}
      </Title>
      <DataTable
        label={words.rules}
        list={rules}
        rowKey={(rule) => rule.id}
        empty={words.noRule}
        emptyCommand={words.noRuleCommand}
        columns={[
          { head: words.share, cell: (rule) => rule.percents.map((percent) => `${percent} %`).join(", ") },
          { head: words.kind, cell: (rule) => whose(rule.kind, rule.user_id) },
          { head: strings.budgets.unit, cell: (rule) => (rule.unit === null ? words.every : unitName(rule.unit)) },
          { head: strings.budgets.window, cell: (rule) => rule.window ?? words.every },
          { head: strings.common.created, cell: (rule) => <Moment at={rule.created_at} /> },
          { head: strings.common.actions, cell: (rule) => <Remove rule={rule} /> },
        ]}
      />
      <CreateRuleDialog opened={creating} close={() => setCreating(false)} tenant={tenant} />
    </Page>
  );
}

function Remove({ rule }: { rule: Rule }) {
  const queries = useQueryClient();
  const remove = useMutation({
    mutationFn: () => result(api.DELETE("/admin/alerts/rules/{rule_id}", { params: { path: { rule_id: rule.id } } })),
    onSuccess: () => queries.invalidateQueries(),
  });
  return (
    <>
      <Button size="compact-sm" variant="default" loading={remove.isPending} onClick={() => remove.mutate()}>
        {words.remove}
      </Button>
      <ErrorNote error={remove.error} />
    </>
  );
}

function CreateRuleDialog({ opened, close, tenant }: { opened: boolean; close: () => void; tenant: number | undefined }) {
  const [percents, setPercents] = useState("80, 95, 100");
  const [kind, setKind] = useState<string | null>(null);

  function create(): Promise<unknown> {
    const body: CreateRule = { percents: percents.split(",").map(Number), kind: kind as CreateRule["kind"], tenant_id: tenant };
    return result(api.POST("/admin/alerts/rules", { body, params: { header: { "Idempotency-Key": newKey() } } }));
  }

  return (
    <Dialog title={words.create} opened={opened} close={close} submitLabel={words.create} submit={create}>
      <TextInput label={words.percents} description={words.percentsHint} value={percents} onChange={(event) => setPercents(event.currentTarget.value)} required data-autofocus />
      <Select label={words.kind} data={KINDS.map((value) => ({ value, label: words.kinds[value] ?? value }))} value={kind} onChange={setKind} placeholder={words.every} clearable />
    </Dialog>
  );
}
