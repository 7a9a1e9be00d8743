import { Badge, Button, Text } from "@mantine/core";
import { useRead } from "../api/read";
import { DataTable } from "../components/DataTable";
import { Moment } from "../components/Moment";
import { Page } from "../components/Page";
import { strings } from "../strings";

const words = strings.doctor;
const ORDER = { failed: 0, warning: 1, ok: 2 };

/** What the checks found on the host that answers, the worst first, and what to do. */
export function Doctor() {
  const found = useRead("/admin/doctor");
  const again = (
    <Button variant="default" loading={found.isFetching} onClick={() => void found.refetch()}>
      {words.again}
    </Button>
  );
  return (
    <Page title={words.title} intro={words.intro} requests={[found.request]} actions={again}>
      {found.data && (
        <Text fw={700}>
          {words.summary[found.data.state]} {words.checked} <Moment at={found.data.checked_at} />
        </Text>
      )}
      <DataTable
        label={words.title}
        list={{ items: found.data?.checks.toSorted((one, other) => ORDER[one.state] - ORDER[other.state]), error: found.error }}
        rowKey={(check) => check.check}
        empty={strings.common.none}
        columns={[
          { head: words.check, cell: (check) => check.check },
          { head: strings.common.status, cell: (check) => <Badge variant="default">{words.states[check.state]}</Badge> },
          { head: words.detail, cell: (check) => <span style={{ overflowWrap: "anywhere" }}>{check.detail}</span> },
          { head: words.advice, cell: (check) => <span style={{ overflowWrap: "anywhere" }}>{check.advice ?? "–"}</span> },
        ]}
      />
    </Page>
  );
}
