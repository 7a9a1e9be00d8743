import { Button, Group, NumberInput, Select, Stack, Text, TextInput } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, type components, newKey, result } from "../api/client";
import { type Item, useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { Page } from "../components/Page";
import { QuotaBar, type QuotaBalance } from "../components/QuotaBar";
import { TenantSelect } from "../components/TenantSelect";
import { strings } from "../strings";
import { WINDOWS } from "./Requests";

type Owner = Item<"/admin/quotas">;
type SetQuota = components["schemas"]["SetQuotaRequest"];
type Act = { kind: "set" | "grant"; owner: Pick<Owner, "tenant_id" | "user_id">; quota?: QuotaBalance };
const words = strings.budgets;
const UNITS = ["tokens", "micro_usd", "requests", "concurrency"] as const;

export function Budgets() {
  const search = useSearch({ from: "/budgets" });
  const navigate = useNavigate({ from: "/budgets" });
  const me = useRead("/me");
  const user = search.user === undefined ? undefined : Number(search.user);
  const tenant = search.tenant === undefined ? undefined : Number(search.tenant);
  const owners = useList("/admin/quotas", { query: { user_id: user, tenant_id: tenant } });
  const people = useList("/admin/users", { query: { tenant_id: tenant, limit: 100 } });
  const emails = new Map(people.items?.map((person) => [person.id, person.email]));
  const [act, setAct] = useState<Act | null>(null);
  const body = { user_id: user ?? 17, window: "day", limit: 50_000, reason: "A new project" };

  return (
    <Page title={words.title} intro={words.intro} requests={[owners.request, { method: "POST", path: "/admin/quotas", body }]}>
      <Group align="end">
        {me.data?.role === "operator" && (
          <TenantSelect value={tenant} change={(chosen) => void navigate({ search: chosen === undefined ? {} : { tenant: String(chosen) } })} />
        )}
        <Select
          label={words.owner}
          data={people.items?.map((person) => ({ value: String(person.id), label: person.email })) ?? []}
          value={user === undefined ? null : String(user)}
          onChange={(chosen) => void navigate({ search: { ...search, user: chosen ?? undefined } })}
          searchable
          clearable
        />
      </Group>
      <DataTable
        label={words.title}
        list={owners}
        rowKey={(owner) => `${owner.tenant_id}/${owner.user_id}`}
        empty={words.empty}
        columns={[
          {
            head: words.owner,
            cell: (owner) => (owner.user_id === null ? words.ofTenant : (emails.get(owner.user_id) ?? words.user(owner.user_id))),
          },
          {
            head: words.quotas,
            cell: (owner) => (
              <Stack gap="xs">
                {owner.quotas.length === 0 && <Text size="sm">{words.none}</Text>}
                {owner.quotas.map((quota) => (
                  <Stack key={`${quota.unit} ${quota.window}`} gap={4}>
                    <QuotaBar quota={quota} />
                    <Group>
                      <Button size="compact-sm" variant="default" onClick={() => setAct({ kind: "grant", owner, quota })}>
                        {words.grant}
                      </Button>
                      <Button size="compact-sm" variant="default" onClick={() => setAct({ kind: "set", owner, quota })}>
                        {words.set}
                      </Button>
                    </Group>
                  </Stack>
                ))}
              </Stack>
            ),
          },
          {
            head: strings.common.actions,
            cell: (owner) => (
              <Button size="compact-sm" onClick={() => setAct({ kind: "set", owner })}>
                {words.set}
              </Button>
            ),
          },
        ]}
      />
      <QuotaDialog key={act ? JSON.stringify(act) : "closed"} act={act} close={() => setAct(null)} />
    </Page>
  );
}

/** Sets a limit, or adds to the current window. */
function QuotaDialog({ act, close }: { act: Act | null; close: () => void }) {
  const [value, setValue] = useState<number | string>(act?.kind === "set" && act.quota ? act.quota.limit : "");
  const [unit, setUnit] = useState<string | null>(act?.quota?.unit ?? "tokens");
  const [window, setWindow] = useState<string | null>(act?.quota?.window ?? "day");
  const [reason, setReason] = useState("");
  const isGrant = act?.kind === "grant";

  function submit(): Promise<unknown> {
    const owner = act?.owner.user_id == null ? { tenant_id: act?.owner.tenant_id } : { user_id: act.owner.user_id };
    const quota = { ...owner, unit: unit as SetQuota["unit"], window: window as SetQuota["window"], reason };
    const params = { header: { "Idempotency-Key": newKey() } };
    return isGrant
      ? result(api.POST("/admin/quotas/grant", { body: { ...quota, amount: Number(value) }, params }))
      : result(api.POST("/admin/quotas", { body: { ...quota, limit: Number(value) }, params }));
  }

  return (
    <Dialog
      title={isGrant ? words.grantTitle : words.setTitle}
      opened={act !== null}
      close={close}
      submitLabel={isGrant ? words.grant : words.set}
      submit={submit}
    >
      <NumberInput label={isGrant ? words.amount : words.limit} min={isGrant ? 1 : 0} allowDecimal={false} thousandSeparator value={value} onChange={setValue} required data-autofocus />
      <Group grow>
        <Select label={words.unit} data={UNITS} value={unit} onChange={setUnit} allowDeselect={false} disabled={act?.quota !== undefined} />
        <Select label={words.window} data={WINDOWS} value={window} onChange={setWindow} allowDeselect={false} disabled={act?.quota !== undefined} />
      </Group>
      <TextInput label={strings.common.reason} description={strings.common.reasonHint} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required />
    </Dialog>
  );
}
