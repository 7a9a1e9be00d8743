import { Button, Group, PasswordInput, Text, TextInput } from "@mantine/core";
import { useState } from "react";
import { api, result } from "../api/client";
import { type Item, useList, useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { TenantSelect } from "../components/TenantSelect";
import { strings } from "../strings";

type Key = Item<"/admin/provider-keys">;
const words = strings.providerKeys;

/** The tenant's own keys at providers. */
export function ProviderKeys() {
  const me = useRead("/me");
  const [tenant, setTenant] = useState<number | undefined>();
  const keys = useList("/admin/provider-keys", { query: { tenant_id: tenant } });
  const [setting, setSetting] = useState(false);
  const [removing, setRemoving] = useState<Key | null>(null);
  const put = { method: "PUT", path: "/admin/provider-keys/{provider}", params: { path: { provider: "openai" } }, body: { key: "sk-…" } } as const;
  return (
    <Page title={words.title} intro={words.intro} requests={[keys.request, put]} actions={<Button onClick={() => setSetting(true)}>{words.set}</Button>}>
      {me.data?.role === "operator" && (
        <Group>
          <TenantSelect value={tenant} change={setTenant} />
        </Group>
      )}
      <DataTable
        label={words.title}
        list={keys}
        rowKey={(key) => `${key.tenant_id}/${key.provider}`}
        empty={words.empty}
        emptyCommand={words.emptyCommand}
        columns={[
          { head: words.provider, cell: (key) => key.provider },
          { head: words.ends, cell: (key) => `…${key.suffix}` },
          { head: strings.common.created, cell: (key) => <Moment at={key.created_at} /> },
          {
            head: strings.common.actions,
            cell: (key) => (
              <Button size="compact-sm" variant="default" onClick={() => setRemoving(key)}>
                {words.remove}
              </Button>
            ),
          },
        ]}
      />
      <SetKey opened={setting} close={() => setSetting(false)} tenant={tenant} />
      <Dialog
        title={words.removeTitle}
        opened={removing !== null}
        close={() => setRemoving(null)}
        submitLabel={words.remove}
        danger
        submit={() =>
          result(
            api.DELETE("/admin/provider-keys/{provider}", {
              params: { path: { provider: removing?.provider ?? "" }, query: { tenant_id: removing?.tenant_id } },
            }),
          )
        }
      >
        <Text>{words.removeText(removing?.provider ?? "")}</Text>
      </Dialog>
    </Page>
  );
}

function SetKey({ opened, close, tenant }: { opened: boolean; close: () => void; tenant: number | undefined }) {
  const [provider, setProvider] = useState("");
  const [key, setKey] = useState("");

  async function submit(): Promise<void> {
    const params = { path: { provider }, query: { tenant_id: tenant } };
    await result(api.PUT("/admin/provider-keys/{provider}", { params, body: { key } }));
    setKey("");
  }

  return (
    <Dialog title={words.set} opened={opened} close={close} submitLabel={words.set} submit={submit}>
      <TextInput label={words.provider} value={provider} onChange={(event) => setProvider(event.currentTarget.value)} required data-autofocus />
      <PasswordInput label={words.key} description={words.keyHint} value={key} onChange={(event) => setKey(event.currentTarget.value)} required autoComplete="off" />
    </Dialog>
  );
}
