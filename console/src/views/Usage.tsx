import { useNavigate, useSearch } from "@tanstack/react-router";
import { useRead } from "../api/read";
import { Page } from "../components/Page";
import { UsageFilters } from "../components/UsageFilters";
import { UsageReport, untilComplete } from "../components/UsageReport";
import { strings } from "../strings";

const words = strings.usage;
const GROUPS = ["day", "hour", "model", "provider", "key", "surface", "group", "tag"] as const;

/** What the caller has spent. The filters are in the URL, so that a link shows the same. */
export function Usage() {
  const search = useSearch({ from: "/usage" });
  const navigate = useNavigate({ from: "/usage" });
  const group = GROUPS.find((name) => name === search.by) ?? "day";
  const usage = useRead("/me/usage", { query: { group_by: group, from: search.from, to: search.to, tag: search.tag } }, { every: untilComplete });
  return (
    <Page title={words.title} intro={words.intro} requests={[usage.request]}>
      <UsageFilters groups={GROUPS} group={group} search={search} change={(next) => void navigate({ search: next })} />
      <UsageReport title={words.title} report={usage.data} error={usage.error} request={usage.request} />
    </Page>
  );
}
