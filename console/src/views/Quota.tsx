import { Skeleton, Stack } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { attributionHeaders } from "../api/attribution";
import { useRead } from "../api/read";
import { Empty } from "../components/DataTable";
import { ErrorNote } from "../components/ErrorNote";
import { GroupSelect } from "../components/GroupSelect";
import { Page } from "../components/Page";
import { QuotaBar } from "../components/QuotaBar";
import { RouterAnchor } from "../components/RouterAnchor";
import { strings } from "../strings";

const words = strings.quota;

/** What the caller may spend, also for one of their groups. */
export function Quota() {
  const { group } = useSearch({ from: "/quota" });
  const navigate = useNavigate({ from: "/quota" });
  const quota = useRead("/me/quota", { header: attributionHeaders({ group }) }, { every: 5_000 });
  return (
    <Page title={words.title} intro={words.intro} requests={[quota.request]}>
      <GroupSelect value={group} change={(next) => void navigate({ search: { group: next } })} />
      <ErrorNote error={quota.error} />
      {quota.isPending && <Skeleton h={120} />}
      {quota.data?.quotas.length === 0 && <Empty text={words.empty} command={words.emptyCommand} />}
      <Stack>
        {quota.data?.quotas.map((each) => <QuotaBar key={`${each.name} ${each.unit} ${each.window}`} quota={each} />)}
      </Stack>
      <RouterAnchor to="/requests">{words.askForMore}</RouterAnchor>
    </Page>
  );
}
