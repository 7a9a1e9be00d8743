import { Button, Skeleton, TextInput, Title } from "@mantine/core";
import { useParams } from "@tanstack/react-router";
import { useState } from "react";
import { api, newKey, result } from "../api/client";
import { useRead } from "../api/read";
import { ChargePicture } from "../components/ChargePicture";
import { DataTable } from "../components/DataTable";
import { Dialog } from "../components/Dialog";
import { ErrorNote } from "../components/ErrorNote";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { RouterAnchor } from "../components/RouterAnchor";
import { isOpen } from "../lib/charge";
import { count } from "../lib/format";
import { strings } from "../strings";

const words = strings.charge;

/** A charge of anyone, with its entries line by line, and its refund. */
export function LedgerCharge() {
  const { chargeId } = useParams({ from: "/ledger/$chargeId" });
  const charge = useRead("/admin/charges/{charge_id}", { path: { charge_id: chargeId } });
  const [refunding, setRefunding] = useState(false);
  const [reason, setReason] = useState("");
  const { data } = charge;
  const refund = {
    method: "POST",
    path: "/admin/charges/{charge_id}/refund",
    params: { path: { charge_id: chargeId } },
    body: { reason: "The answer was cut off" },
  } as const;

  function submit(): Promise<unknown> {
    const params = { path: { charge_id: chargeId }, header: { "Idempotency-Key": newKey() } };
    return result(api.POST("/admin/charges/{charge_id}/refund", { params, body: { reason } }));
  }

  return (
    <Page
      title={words.title}
      requests={[charge.request, refund]}
      actions={data && !isOpen(data) && !data.refunded && <Button onClick={() => setRefunding(true)}>{words.refund}</Button>}
    >
      <RouterAnchor to="/ledger">{words.back}</RouterAnchor>
      <ErrorNote error={charge.error} />
      {charge.isPending && <Skeleton h={200} />}
      {data && <ChargePicture charge={data} />}
      <Title order={2} size="h4">
        {words.entries}
      </Title>
      <DataTable
        label={words.entries}
        list={{ items: data?.entries.map((entry, at) => ({ ...entry, at: entry.at, line: at })), error: null }}
        rowKey={(entry) => entry.line}
        empty={strings.common.none}
        columns={[
          { head: strings.charges.when, cell: (entry) => <Moment at={entry.at} /> },
          { head: words.entryKind, cell: (entry) => entry.kind },
          { head: words.quota, cell: (entry) => entry.quota },
          { head: words.granted, numeric: true, cell: (entry) => count(entry.granted) },
          { head: words.pending, numeric: true, cell: (entry) => count(entry.pending) },
          { head: words.settled, numeric: true, cell: (entry) => count(entry.settled) },
          { head: words.forgiven, numeric: true, cell: (entry) => count(entry.forgiven) },
          { head: strings.common.reason, cell: (entry) => entry.reason ?? "–" },
        ]}
      />
      <Dialog title={words.refundTitle} opened={refunding} close={() => setRefunding(false)} submitLabel={words.refund} submit={submit}>
        <TextInput label={strings.common.reason} description={strings.common.reasonHint} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required data-autofocus />
      </Dialog>
    </Page>
  );
}
