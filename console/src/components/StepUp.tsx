import { Button, Modal, PasswordInput, Stack, Text, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { isApiError } from "../api/client";
import { useRead } from "../api/read";
import { logIn } from "../api/session";
import { endStepUp, useIsStepUpWanted } from "../api/stepUp";
import { strings } from "../strings";
import { ErrorNote } from "./ErrorNote";
import { SignOnButton } from "./SignOnButton";

/** Asks for the password when a request needs a fresh login. */
export function StepUp() {
  const wanted = useIsStepUpWanted();
  const me = useRead("/me");
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const login = useMutation({
    mutationFn: () => logIn(me.data?.email ?? "", password, code),
    onSuccess: () => {
      setPassword("");
      setCode("");
      endStepUp(true);
    },
  });
  const needsCode = isApiError(login.error) && ["totp_required", "invalid_totp_code"].includes(login.error.code);
  return (
    <Modal
      opened={wanted}
      onClose={() => endStepUp(false)}
      title={strings.stepUp.title}
      zIndex={400}
      closeButtonProps={{ "aria-label": strings.common.close }}
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          login.mutate();
        }}
      >
        <Stack>
          <Text size="sm">{strings.stepUp.text}</Text>
          <PasswordInput
            label={strings.signIn.password}
            value={password}
            onChange={(event) => setPassword(event.currentTarget.value)}
            autoComplete="current-password"
            required
            data-autofocus
          />
          {needsCode && (
            <TextInput
              label={strings.signIn.code}
              value={code}
              onChange={(event) => setCode(event.currentTarget.value)}
              autoComplete="one-time-code"
            />
          )}
          <ErrorNote error={login.error} />
          <Button type="submit" loading={login.isPending}>
            {strings.stepUp.submit}
          </Button>
          <SignOnButton email={me.data?.email ?? ""} fresh />
        </Stack>
      </form>
    </Modal>
  );
}
