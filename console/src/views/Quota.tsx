import { Skeleton, Stack } from "@mantine/core";
import { useRead } from "../api/read";
import { Empty } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { Page } from "../components/Page";
import { QuotaBar } from "../components/QuotaBar";
import { strings } from "../strings";

export function Quota() {
  const quota = useRead("/me/quota", undefined, { every: 5_000 });
  const { title, intro, empty, emptyCommand } = strings.quota;
  return (
    <Page title={title} intro={intro} requests={[quota.request]}>
      <ErrorNote error={quota.error} />
      {quota.isPending && <Skeleton h={120} />}
      {quota.data?.quotas.length === 0 && <Empty text={empty} command={emptyCommand} />}
      <Stack>
        {quota.data?.quotas.map((each) => <QuotaBar key={`${each.name} ${each.unit} ${each.window}`} quota={each} />)}
      </Stack>
    </Page>
  );
}
