import { Button, Group, NumberInput, Select, Text, TextInput } from "@mantine/core";
import { useState } from "react";
import { api, type components, newKey, result } from "../api/client";
import { useList } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { RouterAnchor } from "../components/RouterAnchor";
import { count } from "../lib/format";
import { strings } from "../strings";
import { WINDOWS } from "./Requests";

type CreateTenant = components["schemas"]["CreateTenantRequest"];
const words = strings.tenants;

export function Tenants() {
  const tenants = useList("/admin/tenants");
  const [creating, setCreating] = useState(false);
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[tenants.request, { method: "POST", path: "/admin/tenants", body: { name: "acme", time_zone: "Europe/Oslo" } }]}
      actions={<Button onClick={() => setCreating(true)}>{words.create}</Button>}
    >
      <DataTable
        label={words.title}
        list={tenants}
        rowKey={(tenant) => tenant.id}
        empty={words.empty}
        columns={[
          { head: strings.common.id, cell: (tenant) => tenant.id },
          { head: words.name, cell: (tenant) => tenant.name },
          { head: strings.common.status, cell: (tenant) => (tenant.disabled ? strings.people.disabled : strings.people.active) },
          { head: words.zone, cell: (tenant) => tenant.time_zone },
          {
            head: words.defaultLimit,
            numeric: true,
            cell: (tenant) => (tenant.default_limit === null ? strings.common.none : `${count(tenant.default_limit)} ${words.defaultPeriod} ${tenant.default_period}`),
          },
          { head: strings.common.created, cell: (tenant) => <Moment at={tenant.created_at} /> },
          {
            head: strings.nav.budgets,
            cell: (tenant) => (
              <RouterAnchor to="/budgets" search={{ tenant: String(tenant.id) }}>
                {words.open}
              </RouterAnchor>
            ),
          },
        ]}
      />
      <CreateDialog opened={creating} close={() => setCreating(false)} />
    </Page>
  );
}

function CreateDialog({ opened, close }: { opened: boolean; close: () => void }) {
  const [name, setName] = useState("");
  const [zone, setZone] = useState("UTC");
  const [limit, setLimit] = useState<number | string>("");
  const [period, setPeriod] = useState<string | null>("day");

  async function create(): Promise<void> {
    const quota = limit === "" ? {} : { default_limit: Number(limit), default_period: period as CreateTenant["default_period"] };
    const params = { header: { "Idempotency-Key": newKey() } };
    await result(api.POST("/admin/tenants", { body: { name, time_zone: zone, ...quota }, params }));
    setName("");
  }

  return (
    <Dialog title={words.create} opened={opened} close={close} submitLabel={words.create} submit={create}>
      <TextInput label={words.name} value={name} onChange={(event) => setName(event.currentTarget.value)} required data-autofocus />
      <TextInput label={words.zone} description={words.zoneHint} value={zone} onChange={(event) => setZone(event.currentTarget.value)} required />
      <Group grow align="end">
        <NumberInput label={words.defaultLimit} min={0} allowDecimal={false} thousandSeparator value={limit} onChange={setLimit} />
        <Select label={words.defaultPeriod} data={WINDOWS} value={period} onChange={setPeriod} allowDeselect={false} />
      </Group>
      <Text size="sm">{words.admin}</Text>
    </Dialog>
  );
}
