import { Button, Checkbox, Group, TextInput } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { api, newKey, result } from "../api/client";
import { type Item, useList } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { count } from "../lib/format";
import { strings } from "../strings";

type Asked = Item<"/admin/quota-requests">;
const words = strings.quotaRequests;

export function QuotaRequests() {
  const [onlyPending, setOnlyPending] = useState(true);
  const requests = useList("/admin/quota-requests", { query: { status: onlyPending ? "pending" : undefined } });
  const people = useList("/admin/users", { query: { limit: 100 } });
  const emails = new Map(people.items?.map((person) => [person.id, person.email]));
  const [declining, setDeclining] = useState<Asked | null>(null);
  return (
    <Page
      title={words.title}
      intro={words.intro}
      requests={[requests.request, { method: "POST", path: "/admin/quota-requests/{request_id}/grant", params: { path: { request_id: 5 } }, body: {} }]}
    >
      <Checkbox label={words.onlyPending} checked={onlyPending} onChange={(event) => setOnlyPending(event.currentTarget.checked)} />
      <DataTable
        label={words.title}
        list={requests}
        rowKey={(request) => request.id}
        empty={words.empty}
        columns={[
          { head: strings.common.created, cell: (request) => <Moment at={request.created_at} /> },
          { head: words.user, cell: (request) => emails.get(request.user_id) ?? strings.budgets.user(request.user_id) },
          { head: words.asked, numeric: true, cell: (request) => count(request.tokens) },
          { head: strings.budgets.window, cell: (request) => request.window },
          { head: strings.common.reason, cell: (request) => request.reason },
          { head: strings.common.status, cell: (request) => strings.requests.statusNames[request.status] ?? request.status },
          {
            head: strings.common.actions,
            cell: (request) => request.status === "pending" && <Decide request={request} decline={() => setDeclining(request)} />,
          },
        ]}
      />
      <DeclineDialog key={declining?.id ?? 0} request={declining} close={() => setDeclining(null)} />
    </Page>
  );
}

function Decide({ request, decline }: { request: Asked; decline: () => void }) {
  const queries = useQueryClient();
  const grant = useMutation({
    mutationFn: () => {
      const params = { path: { request_id: request.id }, header: { "Idempotency-Key": newKey() } };
      return result(api.POST("/admin/quota-requests/{request_id}/grant", { params, body: {} }));
    },
    onSuccess: () => queries.invalidateQueries(),
  });
  return (
    <>
      <Group gap="xs">
        <Button size="compact-sm" loading={grant.isPending} onClick={() => grant.mutate()}>
          {words.grant}
        </Button>
        <Button size="compact-sm" variant="default" onClick={decline}>
          {words.decline}
        </Button>
      </Group>
      <ErrorNote error={grant.error} />
    </>
  );
}

function DeclineDialog({ request, close }: { request: Asked | null; close: () => void }) {
  const [reason, setReason] = useState("");

  function submit(): Promise<unknown> {
    const params = { path: { request_id: request?.id ?? 0 }, header: { "Idempotency-Key": newKey() } };
    return result(api.POST("/admin/quota-requests/{request_id}/decline", { params, body: { reason } }));
  }

  return (
    <Dialog title={words.declineTitle} opened={request !== null} close={close} submitLabel={words.decline} danger submit={submit}>
      <TextInput label={strings.common.reason} description={words.declineHint} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required data-autofocus />
    </Dialog>
  );
}
