import type { components } from "../api/client";

export type ChargeFacts = components["schemas"]["ChargeResponse"];

/** Whether the call is still running, or its outcome not booked yet. */
export function isOpen(charge: Pick<ChargeFacts, "closed_at">): boolean {
  return charge.closed_at === null;
}

/** What became of the hold, in tokens: of `held` + `overrun`, so much was paid, given back and forgiven. */
export interface Parts {
  paid: number;
  released: number;
  forgiven: number;
  overrun: number;
}

export function partsOf(charge: Pick<ChargeFacts, "held" | "cost" | "forgiven" | "closed_at">): Parts {
  if (isOpen(charge)) return { paid: 0, released: 0, forgiven: 0, overrun: 0 };
  const paid = Math.min(charge.cost, charge.held);
  const forgiven = Math.min(charge.forgiven, charge.held - paid);
  return { paid, forgiven, released: charge.held - paid - forgiven, overrun: charge.cost - paid };
}
