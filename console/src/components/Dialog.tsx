import { Button, Group, Modal, Stack } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useEffect } from "react";
import { strings } from "../strings";
import { ErrorNote } from "./ErrorNote";

interface DialogProps {
  title: string;
  opened: boolean;
  close: () => void;
  submitLabel: string;
  danger?: boolean;
  /** Sends what was typed. The dialog closes after it, and every view reads again. */
  submit: () => Promise<unknown>;
  children: ReactNode;
}

/** A form that does one act. What is shown as done is done: nothing closes before the server has answered. */
export function Dialog({ title, opened, close, submitLabel, danger, submit, children }: DialogProps) {
  const queries = useQueryClient();
  const act = useMutation({
    mutationFn: submit,
    onSuccess: async () => {
      await queries.invalidateQueries();
      close();
    },
  });
  const { reset } = act;
  useEffect(() => {
    if (opened) reset();
  }, [opened, reset]);
  return (
    <Modal opened={opened} onClose={close} title={title} closeButtonProps={{ "aria-label": strings.common.close }}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          act.mutate();
        }}
      >
        <Stack>
          {children}
          <ErrorNote error={act.error} />
          <Group justify="end">
            <Button variant="default" onClick={close}>
              {strings.common.cancel}
            </Button>
            <Button type="submit" color={danger ? "red" : undefined} loading={act.isPending}>
              {submitLabel}
            </Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
