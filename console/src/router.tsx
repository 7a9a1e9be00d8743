import { Text } from "@mantine/core";
import { createHashHistory, createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { ErrorNote } from "./components/ErrorNote";
import { Shell } from "./components/Shell";
import { strings } from "./strings";
import { Playground } from "./views/Playground";

const rootRoute = createRootRoute({ component: Shell });

/** A search parameter that is a text, or absent. */
function texts<K extends string>(...names: K[]) {
  return (search: Record<string, unknown>) =>
    Object.fromEntries(names.filter((name) => search[name]).map((name) => [name, String(search[name])])) as Partial<Record<K, string>>;
}

const playgroundRoute = createRoute({ getParentRoute: () => rootRoute, path: "/", component: Playground });
const quotaRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/quota",
  validateSearch: texts("group"),
  component: lazyRouteComponent(() => import("./views/Quota"), "Quota"),
});
const chargesRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/charges",
  component: lazyRouteComponent(() => import("./views/Charges"), "Charges"),
});
const chargeRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/charges/$chargeId",
  component: lazyRouteComponent(() => import("./views/Charge"), "Charge"),
});
const usageRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/usage",
  validateSearch: texts("by", "from", "to", "tag"),
  component: lazyRouteComponent(() => import("./views/Usage"), "Usage"),
});
const documentsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/documents",
  component: lazyRouteComponent(() => import("./views/Documents"), "Documents"),
});
const keysRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/keys",
  component: lazyRouteComponent(() => import("./views/Keys"), "Keys"),
});
const requestsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/requests",
  component: lazyRouteComponent(() => import("./views/Requests"), "Requests"),
});
const securityRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/security",
  component: lazyRouteComponent(() => import("./views/Security"), "Security"),
});

const peopleRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/people",
  component: lazyRouteComponent(() => import("./views/People"), "People"),
});
const budgetsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/budgets",
  validateSearch: texts("user", "tenant"),
  component: lazyRouteComponent(() => import("./views/Budgets"), "Budgets"),
});
const quotaRequestsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/quota-requests",
  component: lazyRouteComponent(() => import("./views/QuotaRequests"), "QuotaRequests"),
});
const tenantUsageRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/tenant-usage",
  validateSearch: texts("by", "from", "to", "tag", "user", "tenant"),
  component: lazyRouteComponent(() => import("./views/TenantUsage"), "TenantUsage"),
});
const groupsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/groups",
  validateSearch: texts("group", "tenant"),
  component: lazyRouteComponent(() => import("./views/Groups"), "Groups"),
});
const tagsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/tags",
  validateSearch: texts("tag", "tenant"),
  component: lazyRouteComponent(() => import("./views/Tags"), "Tags"),
});
const templatesRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/templates",
  validateSearch: texts("tenant"),
  component: lazyRouteComponent(() => import("./views/Templates"), "Templates"),
});
const statementRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/statement",
  validateSearch: texts("month", "tenant"),
  component: lazyRouteComponent(() => import("./views/Statement"), "Statement"),
});
const alertsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/alerts",
  component: lazyRouteComponent(() => import("./views/Alerts"), "Alerts"),
});
const moderationRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/moderation",
  component: lazyRouteComponent(() => import("./views/Moderation"), "Moderation"),
});
const scoresRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/scores",
  validateSearch: texts("by", "from", "to", "tenant"),
  component: lazyRouteComponent(() => import("./views/Scores"), "Scores"),
});
const providerKeysRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/provider-keys",
  component: lazyRouteComponent(() => import("./views/ProviderKeys"), "ProviderKeys"),
});
const plansRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/plans",
  component: lazyRouteComponent(() => import("./views/Plans"), "Plans"),
});
const auditRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/audit",
  validateSearch: texts("action", "target", "tenant"),
  component: lazyRouteComponent(() => import("./views/Audit"), "Audit"),
});
const tenantsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/tenants",
  component: lazyRouteComponent(() => import("./views/Tenants"), "Tenants"),
});
const liveRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/live",
  component: lazyRouteComponent(() => import("./views/Live"), "Live"),
});
const ledgerRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/ledger",
  component: lazyRouteComponent(() => import("./views/Ledger"), "Ledger"),
});
const ledgerChargeRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/ledger/$chargeId",
  component: lazyRouteComponent(() => import("./views/LedgerCharge"), "LedgerCharge"),
});
const modelsRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/models",
  component: lazyRouteComponent(() => import("./views/Models"), "Models"),
});

const doctorRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/doctor",
  component: lazyRouteComponent(() => import("./views/Doctor"), "Doctor"),
});

const routeTree = rootRoute.addChildren([
  playgroundRoute,
  quotaRoute,
  chargesRoute,
  chargeRoute,
  usageRoute,
  documentsRoute,
  keysRoute,
  requestsRoute,
  securityRoute,
  peopleRoute,
  budgetsRoute,
  quotaRequestsRoute,
  tenantUsageRoute,
  groupsRoute,
  tagsRoute,
  templatesRoute,
  statementRoute,
  alertsRoute,
  moderationRoute,
  scoresRoute,
  providerKeysRoute,
  plansRoute,
  auditRoute,
  tenantsRoute,
  liveRoute,
  ledgerRoute,
  ledgerChargeRoute,
  modelsRoute,
  doctorRoute,
]);

/** The route is in the fragment of the URL: the server has one page, and logs no ids of what is looked at. */
export const router = createRouter({
  routeTree,
  history: createHashHistory(),
  defaultNotFoundComponent: () => <Text>{strings.nav.notFound}</Text>,
  defaultErrorComponent: ({ error }) => <ErrorNote error={error} />,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
