import { Group, NumberInput, Select, TextInput } from "@mantine/core";
import { useState } from "react";
import { api, type components, newKey, result } from "../api/client";
import { strings } from "../strings";
import { WINDOWS } from "../views/Requests";
import { Dialog } from "./Dialog";
import type { QuotaBalance } from "./QuotaBar";

type SetQuota = components["schemas"]["SetQuotaRequest"];
/** Whose quota: one of these; of a tag or of a template, with the tenant. */
export type QuotaOwner = Pick<SetQuota, "tenant_id" | "user_id" | "group_id" | "key_id" | "tag" | "for_each">;
export interface QuotaAct {
  kind: "set" | "grant";
  owner: QuotaOwner;
  quota?: QuotaBalance;
}

const words = strings.budgets;
const UNITS = ["tokens", "micro_usd", "requests", "concurrency"] as const;

/** Sets a limit, or adds to the current window. */
export function QuotaDialog({ act, close }: { act: QuotaAct; close: () => void }) {
  const [value, setValue] = useState<number | string>(act.kind === "set" && act.quota ? act.quota.limit : "");
  const [unit, setUnit] = useState<string | null>(act.quota?.unit ?? "tokens");
  const [window, setWindow] = useState<string | null>(act.quota?.window ?? "day");
  const [reason, setReason] = useState("");
  const isGrant = act.kind === "grant";

  function submit(): Promise<unknown> {
    const quota = { ...act.owner, unit: unit as SetQuota["unit"], window: window as SetQuota["window"], reason };
    const params = { header: { "Idempotency-Key": newKey() } };
    return isGrant
      ? result(api.POST("/admin/quotas/grant", { body: { ...quota, amount: Number(value) }, params }))
      : result(api.POST("/admin/quotas", { body: { ...quota, limit: Number(value) }, params }));
  }

  return (
    <Dialog title={isGrant ? words.grantTitle : words.setTitle} opened close={close} submitLabel={isGrant ? words.grant : words.set} submit={submit}>
      <NumberInput label={isGrant ? words.amount : words.limit} min={isGrant ? 1 : 0} allowDecimal={false} thousandSeparator value={value} onChange={setValue} required data-autofocus />
      <Group grow>
        <Select label={words.unit} data={UNITS} value={unit} onChange={setUnit} allowDeselect={false} disabled={act.quota !== undefined} />
        <Select label={words.window} data={WINDOWS} value={window} onChange={setWindow} allowDeselect={false} disabled={act.quota !== undefined} />
      </Group>
      <TextInput label={strings.common.reason} description={strings.common.reasonHint} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required />
    </Dialog>
  );
}
