import { Alert, Button, Center, Paper, PasswordInput, Stack, Text, TextInput, Title } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { isApiError } from "../api/client";
import { logIn } from "../api/session";
import { ErrorNote } from "../components/ErrorNote";
import { SignOnButton } from "../components/SignOnButton";
import { refusedIn } from "../lib/signOn";
import { strings } from "../strings";

export function SignIn() {
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const login = useMutation({ mutationFn: () => logIn(email, password, code) });
  const failed = isApiError(login.error) ? login.error.code : "";
  const refused = refusedIn(location.search);
  const needsCode = failed === "totp_required" || failed === "invalid_totp_code";
  useEffect(() => {
    document.title = `${strings.signIn.title} · ${strings.product}`;
  }, []);
  return (
    <Center component="main" mih="100vh" p="md">
      <Paper withBorder p="xl" w={400} maw="100%">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            login.mutate();
          }}
        >
          <Stack>
            <Title order={1} size="h2">
              {strings.product}
            </Title>
            <TextInput
              label={strings.signIn.email}
              value={email}
              onChange={(event) => setEmail(event.currentTarget.value)}
              autoComplete="username"
              required
              autoFocus
            />
            <PasswordInput
              label={strings.signIn.password}
              value={password}
              onChange={(event) => setPassword(event.currentTarget.value)}
              autoComplete="current-password"
              required
            />
            {needsCode && (
              <TextInput
                label={strings.signIn.code}
                description={strings.signIn.codeHint}
                value={code}
                onChange={(event) => setCode(event.currentTarget.value)}
                autoComplete="one-time-code"
                required
                autoFocus
              />
            )}
            {failed !== "totp_required" && <ErrorNote error={login.error} />}
            {refused !== null && !login.error && <RefusedSignOn id={refused} />}
            <Button type="submit" loading={login.isPending}>
              {strings.signIn.submit}
            </Button>
            <SignOnButton email={email} />
            <Text size="xs" c="dimmed">
              {strings.signIn.firstRun}
            </Text>
          </Stack>
        </form>
      </Paper>
    </Center>
  );
}

function RefusedSignOn({ id }: { id: string }) {
  return (
    <Alert color="red" variant="light" title={strings.errors.title} role="alert">
      <Text size="sm">{strings.signIn.refused}</Text>
      <Text size="xs" mt={4}>
        {strings.errors.correlation(id)}
      </Text>
    </Alert>
  );
}
