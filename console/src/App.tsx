import { Center, createTheme, type CSSVariablesResolver, Loader, MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { setNonce } from "get-nonce";
import { useEffect } from "react";
import { isApiError } from "./api/client";
import { refresh, useSessionStatus } from "./api/session";
import { StepUp } from "./components/StepUp";
import { router } from "./router";
import { strings } from "./strings";
import { SignIn } from "./views/SignIn";

const nonce = document.querySelector<HTMLMetaElement>('meta[name="csp-nonce"]')?.content ?? "";
setNonce(nonce); // for what stops the page from scrolling behind a dialog
const theme = createTheme({ primaryShade: { light: 8, dark: 8 }, cursorType: "pointer" });
const RETRY_MS = 2_000;
/** Muted text, and the text of links and buttons without a frame, has a contrast of at least 4.5 : 1 on every background that
 * is used here, also under the mouse. */
const cssVariables: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    "--mantine-color-dimmed": "var(--mantine-color-gray-7)",
    "--mantine-color-placeholder": "var(--mantine-color-gray-7)",
    "--mantine-color-blue-light-hover": "var(--mantine-color-blue-1)",
  },
  dark: { "--mantine-color-dimmed": "var(--mantine-color-gray-5)", "--mantine-color-placeholder": "var(--mantine-color-gray-5)" },
});
const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 5_000,
      retry: (failures, error) => failures < 2 && !isApiError(error), // the server's refusals stand
    },
  },
});

export function App() {
  return (
    <MantineProvider theme={theme} defaultColorScheme="auto" cssVariablesResolver={cssVariables} getStyleNonce={() => nonce}>
      <QueryClientProvider client={queries}>
        <Session />
      </QueryClientProvider>
    </MantineProvider>
  );
}

/** Look for a login. While the server does not answer, try again. */
async function start(): Promise<void> {
  try {
    await refresh();
  } catch {
    setTimeout(() => void start(), RETRY_MS);
  }
}

/** The sign-in, or the console. What one user has read is forgotten before another signs in. */
function Session() {
  const status = useSessionStatus();
  useEffect(() => {
    if (status === "starting") void start();
    if (status === "signed-out") queries.clear();
  }, [status]);
  if (status === "starting") {
    return (
      <Center h="100vh">
        <Loader aria-label={strings.common.loading} />
      </Center>
    );
  }
  if (status === "signed-out") return <SignIn />;
  return (
    <>
      <RouterProvider router={router} />
      <StepUp />
    </>
  );
}
