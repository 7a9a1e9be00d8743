import { Button, TextInput } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, newKey, result } from "../api/client";
import { type Item, useList } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Page } from "../components/Page";
import { strings } from "../strings";

type Model = Item<"/admin/models">;
const words = strings.models;

export function Models() {
  const models = useList("/admin/models", { query: { limit: 50 } });
  const [switching, setSwitching] = useState<string | null>(null);
  const off = { method: "POST", path: "/admin/models/{name}/off", params: { path: { name: "echo" } }, body: { reason: "It is slow today" } } as const;
  return (
    <Page title={words.title} intro={words.intro} requests={[models.request, off]}>
      <DataTable
        label={words.title}
        list={models}
        rowKey={(model) => model.id}
        empty={strings.common.none}
        columns={[
          { head: words.model, cell: (model) => model.id },
          { head: words.provider, cell: (model) => model.provider ?? model.providers.join(", ") },
          { head: words.weight, numeric: true, cell: (model) => model.weight ?? "–" },
          { head: words.price, numeric: true, cell: (model) => (model.price ? `${model.price.input} / ${model.price.output}` : "–") },
          { head: strings.common.status, cell: (model) => (model.on ? words.on : `${words.off}: ${model.switched_off?.reason ?? ""}`) },
          { head: strings.common.actions, cell: (model) => <Switch model={model} off={() => setSwitching(model.id)} /> },
        ]}
      />
      <SwitchOff key={switching ?? ""} name={switching} close={() => setSwitching(null)} />
    </Page>
  );
}

function Switch({ model, off }: { model: Model; off: () => void }) {
  const queries = useQueryClient();
  const on = useMutation({
    mutationFn: () => result(api.POST("/admin/models/{name}/on", { params: { path: { name: model.id } } })),
    onSuccess: () => queries.invalidateQueries(),
  });
  return (
    <>
      <Button size="compact-sm" variant="default" loading={on.isPending} onClick={model.on ? off : () => on.mutate()}>
        {model.on ? words.switchOff : words.switchOn}
      </Button>
      <ErrorNote error={on.error} />
    </>
  );
}

function SwitchOff({ name, close }: { name: string | null; close: () => void }) {
  const [reason, setReason] = useState("");

  function submit(): Promise<unknown> {
    const params = { path: { name: name ?? "" }, header: { "Idempotency-Key": newKey() } };
    return result(api.POST("/admin/models/{name}/off", { params, body: { reason } }));
  }

  return (
    <Dialog title={words.switchTitle(name ?? "")} opened={name !== null} close={close} submitLabel={words.switchOff} danger submit={submit}>
      <TextInput label={strings.common.reason} description={strings.common.reasonHint} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required data-autofocus />
    </Dialog>
  );
}
