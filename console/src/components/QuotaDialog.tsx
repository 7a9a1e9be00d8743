import { Group, NumberInput, Select, Text, TextInput } from "@mantine/core";
import { useState } from "react";
import { api, type components, newKey, result } from "../api/client";
import { strings } from "../strings";
import { WINDOWS } from "../views/Requests";
import { Dialog } from "./Dialog";
import type { QuotaBalance } from "./QuotaBar";

type SetQuota = components["schemas"]["SetQuotaRequest"];
/** Whose quota: one of these; of a tag or of a template, with the tenant. */
export type QuotaOwner = Pick<SetQuota, "tenant_id" | "user_id" | "group_id" | "key_id" | "tag" | "for_each">;
export type QuotaAct = { kind: "set" | "grant"; owner: QuotaOwner; quota?: QuotaBalance } | Removal;
interface Removal {
  kind: "remove";
  owner: QuotaOwner;
  quota: QuotaBalance;
}
type Change = Exclude<QuotaAct, Removal>;

const words = strings.budgets;
const UNITS = ["tokens", "micro_usd", "requests", "concurrency"] as const;

/** Sets a limit, adds to the current window, or removes a quota. */
export function QuotaDialog({ act, close }: { act: QuotaAct; close: () => void }) {
  return act.kind === "remove" ? <RemoveDialog act={act} close={close} /> : <ChangeDialog act={act} close={close} />;
}

function RemoveDialog({ act: { owner, quota }, close }: { act: Removal; close: () => void }) {
  const [reason, setReason] = useState("");

  function submit(): Promise<unknown> {
    const { unit, window } = quota as Pick<SetQuota, "unit" | "window">;
    return result(api.DELETE("/admin/quotas", { params: { query: { ...owner, unit, window, reason } } }));
  }

  return (
    <Dialog title={words.removeTitle} opened close={close} submitLabel={words.remove} danger submit={submit}>
      <Text>{owner.for_each ? words.removeTemplateText : words.removeText}</Text>
      <TextInput label={strings.common.reason} description={strings.common.reasonHint} value={reason} onChange={(event) => setReason(event.currentTarget.value)} required data-autofocus />
    </Dialog>
  );
}

function ChangeDialog({ act, close }: { act: Change; close: () => void }) {
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
