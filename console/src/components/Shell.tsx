import { AppShell, Alert, Anchor, Burger, Button, Group, NavLink, type NavLinkProps, Text, useComputedColorScheme, useMantineColorScheme } from "@mantine/core";
import { useDisclosure, useHotkeys } from "@mantine/hooks";
import { createLink, Outlet, useNavigate } from "@tanstack/react-router";
import { lazy, Suspense } from "react";
import { useRead } from "../api/read";
import { logOut } from "../api/session";
import { strings } from "../strings";
import { ErrorNote } from "./ErrorNote";

const RouterNavLink = createLink((props: NavLinkProps & { ref?: React.Ref<HTMLAnchorElement> }) => (
  <NavLink component="a" variant="filled" {...props} />
));
const Palette = lazy(() => import("./Palette").then((module) => ({ default: module.Palette })));
const { nav } = strings;
const MINE = [
  ["/", nav.playground],
  ["/quota", nav.quota],
  ["/charges", nav.charges],
  ["/usage", nav.usage],
  ["/documents", nav.documents],
  ["/keys", nav.keys],
  ["/requests", nav.requests],
  ["/security", nav.security],
] as const;
const TENANT = [
  ["/people", nav.people],
  ["/groups", nav.groups],
  ["/budgets", nav.budgets],
  ["/templates", nav.templates],
  ["/tags", nav.tags],
  ["/quota-requests", nav.quotaRequests],
  ["/tenant-usage", nav.tenantUsage],
  ["/statement", nav.statement],
  ["/alerts", nav.alerts],
  ["/moderation", nav.moderation],
  ["/scores", nav.scores],
  ["/provider-keys", nav.providerKeys],
  ["/audit", nav.audit],
] as const;
const INSTALLATION = [
  ["/tenants", nav.tenants],
  ["/plans", nav.plans],
  ["/live", nav.live],
  ["/ledger", nav.ledger],
  ["/models", nav.models],
  ["/doctor", nav.doctor],
] as const;

/** The frame of every view: who is signed in, and the views of their role. */
export function Shell() {
  const [opened, { toggle, close }] = useDisclosure();
  const me = useRead("/me");
  const role = me.data?.role;
  const sections: Section[] = [
    { title: nav.me, links: MINE },
    ...(role === "tenant_admin" || role === "operator" ? [{ title: nav.tenant, links: TENANT }] : []),
    ...(role === "operator" ? [{ title: nav.installation, links: INSTALLATION }] : []),
  ];
  return (
    <AppShell header={{ height: 56 }} navbar={{ width: 230, breakpoint: "sm", collapsed: { mobile: !opened } }} padding="md">
      <AppShell.Header>
        <Anchor href="#content" className="skip" onClick={skipToContent}>
          {strings.common.skip}
        </Anchor>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Group wrap="nowrap">
            <Burger opened={opened} onClick={toggle} hiddenFrom="sm" size="sm" aria-label={strings.common.menu} />
            <Text fw={700}>{strings.product}</Text>
          </Group>
          <Group gap="xs" wrap="nowrap">
            <Text size="sm" visibleFrom="md" truncate maw={420}>
              {me.data && nav.signedInAs(me.data.email, me.data.tenant)}
            </Text>
            <Commands sections={sections} />
            <SchemeButton />
            <Button variant="default" size="xs" onClick={() => void logOut(false)}>
              {nav.signOut}
            </Button>
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="xs" style={{ overflowY: "auto" }}>
        {sections.map(({ title, links }) => (
          <div key={title}>
            <Text size="xs" fw={700} px="sm" pt="sm" pb={4} c="dimmed">
              {title}
            </Text>
            {links.map(([to, label]) => (
              <RouterNavLink key={to} to={to} label={label} onClick={close} activeOptions={{ exact: to === "/" }} activeProps={{ active: true }} />
            ))}
          </div>
        ))}
      </AppShell.Navbar>
      <AppShell.Main id="content" tabIndex={-1}>
        <ErrorNote error={me.error} />
        {me.data?.content_logging && (
          <Alert color="yellow" mb="md">
            {nav.contentLogging}
          </Alert>
        )}
        <Outlet />
      </AppShell.Main>
    </AppShell>
  );
}

type To = (typeof MINE | typeof TENANT | typeof INSTALLATION)[number][0];
interface Section {
  title: string;
  links: readonly (readonly [To, string])[];
}

/** The palette, with a button and a key that open it. */
function Commands({ sections }: { sections: Section[] }) {
  const [opened, { open, close }] = useDisclosure();
  const navigate = useNavigate();
  const toggleScheme = useToggleScheme();
  useHotkeys([["mod+K", open]], []);
  const commands = [
    ...sections.flatMap(({ title, links }) => links.map(([to, name]) => ({ name, section: title, run: () => void navigate({ to }) }))),
    { name: strings.common.switchScheme, section: strings.common.actions, run: toggleScheme },
    { name: nav.signOut, section: strings.common.actions, run: () => void logOut(false) },
  ];
  return (
    <>
      <Button variant="default" size="xs" visibleFrom="xs" onClick={open}>
        {strings.palette.open}
      </Button>
      {opened && (
        <Suspense>
          <Palette commands={commands} close={close} />
        </Suspense>
      )}
    </>
  );
}

function skipToContent(event: React.MouseEvent): void {
  event.preventDefault(); // the fragment of the URL is the route
  document.getElementById("content")?.focus();
}

function useToggleScheme(): () => void {
  const { setColorScheme } = useMantineColorScheme();
  const scheme = useComputedColorScheme("light");
  return () => setColorScheme(scheme === "dark" ? "light" : "dark");
}

function SchemeButton() {
  const toggle = useToggleScheme();
  return (
    <Button variant="default" size="xs" aria-label={strings.common.switchScheme} title={strings.common.switchScheme} onClick={toggle}>
      ◐
    </Button>
  );
}
