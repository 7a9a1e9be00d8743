import { Button, Checkbox, Group, Modal, NumberInput, Stack, Text, TextInput } from "@mantine/core";
import { useState } from "react";
import { api, type components, result } from "../api/client";
import { asCurl } from "../api/curl";
import { useRead } from "../api/read";
import { CopyText } from "../components/CopyText";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { daysFromNow, namesIn } from "../lib/input";
import { strings } from "../strings";

type Key = components["schemas"]["KeyResponse"];
type Scope = "ai" | "me";
const words = strings.keys;
const CREATION = { method: "POST", path: "/auth/keys", body: { name: words.example, scopes: ["ai"] } } as const;

export function Keys() {
  const keys = useRead("/auth/keys");
  const [creating, setCreating] = useState(false);
  const [created, setCreated] = useState<string | null>(null);
  const [revoking, setRevoking] = useState<Key | null>(null);
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[keys.request, CREATION]}
      actions={<Button onClick={() => setCreating(true)}>{words.create}</Button>}
    >
      <DataTable
        label={words.title}
        list={{ items: keys.data?.data, error: keys.error }}
        rowKey={(key) => key.id}
        empty={words.empty}
        emptyCommand={asCurl(CREATION)}
        columns={[
          { head: words.name, cell: (key) => key.name },
          { head: words.prefix, cell: (key) => `${key.prefix}…` },
          { head: words.scopes, cell: (key) => key.scopes.map((scope) => words.scopeNames[scope] ?? scope).join(", ") },
          { head: words.limits, cell: limitsOf },
          { head: words.expires, cell: (key) => (key.expires_at ? <Moment at={key.expires_at} /> : strings.common.never) },
          { head: words.lastUsed, cell: (key) => (key.last_used_at ? <Moment at={key.last_used_at} /> : strings.common.never) },
          {
            head: strings.common.actions,
            cell: (key) => (
              <Button size="compact-sm" variant="default" onClick={() => setRevoking(key)}>
                {words.revoke}
              </Button>
            ),
          },
        ]}
      />
      <CreateKey opened={creating} close={() => setCreating(false)} created={setCreated} />
      <Modal opened={created !== null} onClose={() => setCreated(null)} title={words.created} closeButtonProps={{ "aria-label": strings.common.close }}>
        <Stack>
          <Text size="sm">{words.createdText}</Text>
          <CopyText label={words.created} value={created ?? ""} />
        </Stack>
      </Modal>
      <Dialog
        title={words.revokeTitle}
        opened={revoking !== null}
        close={() => setRevoking(null)}
        submitLabel={words.revoke}
        danger
        submit={() => result(api.DELETE("/auth/keys/{key_id}", { params: { path: { key_id: revoking?.id ?? "" } } }))}
      >
        <Text>{words.revokeText(revoking?.name ?? "")}</Text>
      </Dialog>
    </Page>
  );
}

function limitsOf(key: Key): string {
  const limits = [key.models, key.surfaces, key.networks].filter((names) => names !== null).map((names) => names.join(", "));
  return limits.length ? limits.join("; ") : strings.common.unlimited;
}

function CreateKey({ opened, close, created }: { opened: boolean; close: () => void; created: (key: string) => void }) {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<Scope[]>(["ai", "me"]);
  const [models, setModels] = useState("");
  const [days, setDays] = useState<number | string>("");

  async function create(): Promise<void> {
    const body = {
      name,
      scopes,
      models: namesIn(models),
      expires_at: days === "" ? undefined : daysFromNow(Number(days), Date.now()),
    };
    created((await result(api.POST("/auth/keys", { body }))).key);
    setName("");
  }

  return (
    <Dialog title={words.create} opened={opened} close={close} submitLabel={words.create} submit={create}>
      <TextInput label={words.name} value={name} onChange={(event) => setName(event.currentTarget.value)} required data-autofocus />
      <Checkbox.Group label={words.scopes} value={scopes} onChange={(chosen) => setScopes(chosen as Scope[])}>
        <Group mt={4}>
          {(["ai", "me"] as const).map((scope) => (
            <Checkbox key={scope} value={scope} label={words.scopeNames[scope]} />
          ))}
        </Group>
      </Checkbox.Group>
      <TextInput label={words.models} description={words.modelsHint} value={models} onChange={(event) => setModels(event.currentTarget.value)} />
      <NumberInput label={words.expires} description={words.expiresHint} min={1} max={3_650} allowDecimal={false} value={days} onChange={setDays} />
    </Dialog>
  );
}
