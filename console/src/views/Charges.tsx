import type { components } from "../api/client";
import { asCurl } from "../api/curl";
import { useList } from "../api/read";
import { type Column, DataTable } from "../components/DataTable";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { RouterAnchor } from "../components/RouterAnchor";
import { count } from "../lib/format";
import { strings } from "../strings";

type ChargeRow = components["schemas"]["ChargeResponse"];
const words = strings.charges;
const FIRST_CALL = { method: "POST", path: "/ai/query", body: { prompt: words.example } } as const;

/** The columns of every list of charges. */
export const CHARGE_COLUMNS: Column<ChargeRow>[] = [
  {
    head: words.when,
    cell: (row) => (
      <RouterAnchor to="/charges/$chargeId" params={{ chargeId: row.id }}>
        <Moment at={row.created_at} />
      </RouterAnchor>
    ),
  },
  { head: words.model, cell: (row) => row.model },
  { head: words.endpoint, cell: (row) => row.surface },
  { head: words.state, cell: (row) => row.state },
  {
    head: words.tokens,
    numeric: true,
    cell: (row) => (row.input_tokens === null ? "–" : `${count(row.input_tokens)} / ${count(row.output_tokens ?? 0)}`),
  },
  { head: words.held, numeric: true, cell: (row) => count(row.held) },
  { head: words.cost, numeric: true, cell: (row) => count(row.cost) },
  { head: words.usd, numeric: true, cell: (row) => row.cost_usd ?? "–" },
];

export function Charges() {
  const charges = useList("/me/charges");
  return (
    <Page title={words.title} intro={words.intro} requests={[charges.request]}>
      <DataTable label={words.title} list={charges} columns={CHARGE_COLUMNS} rowKey={(row) => row.id} empty={words.empty} emptyCommand={asCurl(FIRST_CALL)} />
    </Page>
  );
}
