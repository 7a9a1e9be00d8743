import { Button, Checkbox, Group, NumberInput, Stack, Text, TextInput, Title } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, newKey, result } from "../api/client";
import { type Item, useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { type QuotaAct, QuotaDialog } from "../components/QuotaDialog";
import { QuotaList } from "../components/QuotaList";
import { RouterAnchor } from "../components/RouterAnchor";
import { TenantSelect } from "../components/TenantSelect";
import { count } from "../lib/format";
import { namesIn } from "../lib/input";
import { strings } from "../strings";

type Tag = Item<"/admin/tags">;
/** Whose quotas: a value of a tag. */
interface TagOwner {
  tenant_id: number;
  tag: string;
}
const words = strings.tags;
const DEFAULT_MOST = 1_000;

/** The tags that calls of a tenant may have, and the values of the one that the URL names, with their quotas. */
export function Tags() {
  const search = useSearch({ from: "/tags" });
  const navigate = useNavigate({ from: "/tags" });
  const me = useRead("/me");
  const tenant = search.tenant === undefined ? undefined : Number(search.tenant);
  const tags = useList("/admin/tags", { query: { tenant_id: tenant } });
  const shown = tags.items?.find((tag) => String(tag.id) === search.tag);
  const [declaring, setDeclaring] = useState(false);
  const [closing, setClosing] = useState<Tag | null>(null);

  async function close(): Promise<void> {
    await result(api.DELETE("/admin/tags/{tag_id}", { params: { path: { tag_id: closing?.id ?? 0 } } }));
    if (closing?.id === shown?.id) await navigate({ search: { ...search, tag: undefined } }); // its values are read no more
  }

  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[tags.request, { method: "POST", path: "/admin/tags", body: { name: "cost-centre", values: ["42", "43"] } }]}
      actions={<Button onClick={() => setDeclaring(true)}>{words.declare}</Button>}
    >
      {me.data?.role === "operator" && (
        <Group>
          <TenantSelect value={tenant} change={(chosen) => void navigate({ search: chosen === undefined ? {} : { tenant: String(chosen) } })} />
        </Group>
      )}
      <DataTable
        label={words.title}
        list={tags}
        rowKey={(tag) => tag.id}
        empty={words.empty}
        emptyCommand={words.emptyCommand}
        columns={[
          { head: words.name, cell: (tag) => tag.name },
          { head: words.values, cell: (tag) => (tag.any_value ? words.any(count(tag.known_values), count(tag.max_values)) : words.listed(count(tag.known_values))) },
          { head: words.required, cell: (tag) => (tag.required ? strings.common.yes : strings.common.no) },
          { head: strings.common.created, cell: (tag) => <Moment at={tag.created_at} /> },
          {
            head: strings.common.actions,
            cell: (tag) => (
              <Group gap="xs" wrap="nowrap">
                <RouterAnchor to="/tags" search={{ ...search, tag: String(tag.id) }} aria-label={words.valuesOf(tag.name)}>
                  {words.values}
                </RouterAnchor>
                <Button size="compact-sm" variant="default" onClick={() => setClosing(tag)}>
                  {words.close}
                </Button>
              </Group>
            ),
          },
        ]}
      />
      {shown && <Values key={shown.id} tag={shown} />}
      <DeclareTag opened={declaring} close={() => setDeclaring(false)} tenant={tenant} />
      <Dialog
        title={words.closeTitle}
        opened={closing !== null}
        close={() => setClosing(null)}
        submitLabel={words.close}
        danger
        submit={close}
      >
        <Text>{words.closeText(closing?.name ?? "")}</Text>
      </Dialog>
    </Page>
  );
}

function DeclareTag({ opened, close, tenant }: { opened: boolean; close: () => void; tenant: number | undefined }) {
  const [name, setName] = useState("");
  const [values, setValues] = useState("");
  const [most, setMost] = useState<number | string>(DEFAULT_MOST);
  const [required, setRequired] = useState(false);

  async function declare(): Promise<void> {
    const body = { name, tenant_id: tenant, values: namesIn(values), max_values: Number(most), required };
    await result(api.POST("/admin/tags", { body, params: { header: { "Idempotency-Key": newKey() } } }));
    setName("");
    setValues("");
  }

  return (
    <Dialog title={words.declare} opened={opened} close={close} submitLabel={words.declare} submit={declare}>
      <TextInput label={words.name} description={words.nameHint} value={name} onChange={(event) => setName(event.currentTarget.value)} required data-autofocus />
      <TextInput label={words.values} description={words.valuesHint} value={values} onChange={(event) => setValues(event.currentTarget.value)} />
      {namesIn(values) === undefined && (
        <NumberInput label={words.most} description={words.mostHint} min={1} max={1_000_000} allowDecimal={false} thousandSeparator value={most} onChange={setMost} required />
      )}
      <Checkbox label={words.required} description={words.requiredHint} checked={required} onChange={(event) => setRequired(event.currentTarget.checked)} />
    </Dialog>
  );
}

function Values({ tag }: { tag: Tag }) {
  const values = useList("/admin/tags/{tag_id}/values", { path: { tag_id: tag.id } });
  const [act, setAct] = useState<QuotaAct | null>(null);
  const ownerOf = (value: string): TagOwner => ({ tenant_id: tag.tenant_id, tag: `${tag.name}=${value}` });
  return (
    <Stack gap="xs">
      <Title order={2} size="h4">
        {words.valuesOf(tag.name)}
      </Title>
      <DataTable
        label={words.valuesOf(tag.name)}
        list={values}
        rowKey={({ value }) => value}
        empty={words.noValue}
        columns={[
          { head: words.value, cell: ({ value }) => value },
          { head: strings.budgets.quotas, cell: ({ value }) => <Quotas owner={ownerOf(value)} act={setAct} /> },
          {
            head: strings.common.actions,
            cell: ({ value }) => (
              <Button size="compact-sm" variant="default" onClick={() => setAct({ kind: "set", owner: ownerOf(value) })}>
                {strings.budgets.set}
              </Button>
            ),
          },
        ]}
      />
      {act && <QuotaDialog key={JSON.stringify(act)} act={act} close={() => setAct(null)} />}
    </Stack>
  );
}

function Quotas({ owner, act }: { owner: TagOwner; act: (act: QuotaAct) => void }) {
  const found = useRead("/admin/quotas", { query: owner });
  return <QuotaList owner={owner} quotas={found.data?.data[0]?.quotas} error={found.error} act={act} />;
}
