import { Button, Group, NumberInput, Select, Text, TextInput } from "@mantine/core";
import { useState } from "react";
import { api, type components, newKey, result } from "../api/client";
import { type Item, useList, useTenants } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { Page } from "../components/Page";
import { amount, unitName } from "../lib/format";
import { namesIn } from "../lib/input";
import { strings } from "../strings";

type Plan = Item<"/admin/plans">;
type PlanQuota = components["schemas"]["PlanQuota"];
type Act = { kind: "assign" | "remove"; plan: Plan };
const words = strings.plans;

/** The plans of the installation, and which tenants are on them. */
export function Plans() {
  const plans = useList("/admin/plans");
  const tenants = useTenants();
  const [creating, setCreating] = useState(false);
  const [act, setAct] = useState<Act | null>(null);
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[plans.request, { method: "POST", path: "/admin/plans", body: { name: "pro", calls_per_user: "600/minute" } }]}
      actions={<Button onClick={() => setCreating(true)}>{words.create}</Button>}
    >
      <DataTable
        label={words.title}
        list={plans}
        rowKey={(plan) => plan.id}
        empty={words.empty}
        emptyCommand={words.emptyCommand}
        columns={[
          { head: words.name, cell: (plan) => plan.name },
          { head: words.callsPerUser, cell: (plan) => plan.calls_per_user ?? strings.common.unlimited },
          { head: words.callsPerTenant, cell: (plan) => plan.calls_per_tenant ?? strings.common.unlimited },
          { head: words.quotas, cell: (plan) => <Quotas plan={plan} /> },
          { head: words.models, cell: (plan) => plan.models?.join(", ") ?? words.all },
          { head: words.days, cell: (plan) => (plan.content_days === null ? "–" : words.dayCount(plan.content_days)) },
          {
            head: words.tenants,
            cell: (plan) =>
              tenants.items
                ?.filter((tenant) => tenant.plan_id === plan.id)
                .map((tenant) => tenant.name)
                .join(", ") || "–",
          },
          {
            head: strings.common.actions,
            cell: (plan) => (
              <Group gap="xs">
                <Button size="compact-sm" variant="default" onClick={() => setAct({ kind: "assign", plan })}>
                  {words.assign}
                </Button>
                <Button size="compact-sm" variant="default" onClick={() => setAct({ kind: "remove", plan })}>
                  {words.remove}
                </Button>
              </Group>
            ),
          },
        ]}
      />
      <CreatePlan opened={creating} close={() => setCreating(false)} />
      {act?.kind === "assign" && <Assign plan={act.plan} tenants={tenants.items ?? []} close={() => setAct(null)} />}
      <Dialog
        title={words.removeTitle}
        opened={act?.kind === "remove"}
        close={() => setAct(null)}
        submitLabel={words.remove}
        danger
        submit={() => result(api.DELETE("/admin/plans/{plan_id}", { params: { path: { plan_id: act?.plan.id ?? 0 } } }))}
      >
        <Text>{words.removeText(act?.plan.name ?? "")}</Text>
      </Dialog>
    </Page>
  );
}

function Quotas({ plan }: { plan: Plan }) {
  const lines = [
    ...plan.tenant_quotas.map((quota) => [words.ofTenant, quota] as const),
    ...plan.user_quotas.map((quota) => [words.ofUsers, quota] as const),
  ];
  if (lines.length === 0) return strings.common.none;
  return lines.map(([whose, quota]) => (
    <Text key={`${whose} ${quota.unit} ${quota.window}`} size="sm">
      {whose}: {amount(quota.limit, quota.unit)} {unitName(quota.unit)} {strings.quota.window(quota.window)}
    </Text>
  ));
}

function tokens(limit: number | string, window: PlanQuota["window"]): PlanQuota[] {
  return limit === "" ? [] : [{ window, limit: Number(limit), unit: "tokens" }];
}

function CreatePlan({ opened, close }: { opened: boolean; close: () => void }) {
  const [name, setName] = useState("");
  const [perUser, setPerUser] = useState("");
  const [perTenant, setPerTenant] = useState("");
  const [ofUser, setOfUser] = useState<number | string>("");
  const [ofTenant, setOfTenant] = useState<number | string>("");
  const [models, setModels] = useState("");

  async function create(): Promise<void> {
    const body = {
      name,
      calls_per_user: perUser || null,
      calls_per_tenant: perTenant || null,
      user_quotas: tokens(ofUser, "day"),
      tenant_quotas: tokens(ofTenant, "month"),
      models: namesIn(models),
    };
    await result(api.POST("/admin/plans", { body, params: { header: { "Idempotency-Key": newKey() } } }));
    setName("");
  }

  return (
    <Dialog title={words.create} opened={opened} close={close} submitLabel={words.create} submit={create}>
      <TextInput label={words.name} value={name} onChange={(event) => setName(event.currentTarget.value)} required data-autofocus />
      <TextInput label={words.callsPerUser} description={words.rateHint} value={perUser} onChange={(event) => setPerUser(event.currentTarget.value)} />
      <TextInput label={words.callsPerTenant} value={perTenant} onChange={(event) => setPerTenant(event.currentTarget.value)} />
      <NumberInput label={words.userQuota} min={0} allowDecimal={false} thousandSeparator value={ofUser} onChange={setOfUser} />
      <NumberInput label={words.tenantQuota} min={0} allowDecimal={false} thousandSeparator value={ofTenant} onChange={setOfTenant} />
      <TextInput label={words.models} description={strings.keys.modelsHint} value={models} onChange={(event) => setModels(event.currentTarget.value)} />
    </Dialog>
  );
}

function Assign({ plan, tenants, close }: { plan: Plan; tenants: Item<"/admin/tenants">[]; close: () => void }) {
  const [tenant, setTenant] = useState<string | null>(null);
  const [reason, setReason] = useState("");

  function submit(): Promise<unknown> {
    const params = { path: { tenant_id: Number(tenant) }, header: { "Idempotency-Key": newKey() } };
    return result(api.POST("/admin/tenants/{tenant_id}/plan", { params, body: { plan_id: plan.id, reason } }));
  }

  return (
    <Dialog title={words.assignTitle(plan.name)} opened close={close} submitLabel={words.assign} submit={submit}>
      <Select
        label={strings.people.tenant}
        data={tenants.map((one) => ({ value: String(one.id), label: `${one.name} (${one.id})` }))}
        value={tenant}
        onChange={setTenant}
        searchable
        required
        data-autofocus
      />
      <TextInput label={strings.common.reason} description={strings.common.reasonHint} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required />
    </Dialog>
  );
}
