/** Some acts need a fresh login. Whatever sends such a request waits here until the user has typed the password. */

import { useSyncExternalStore } from "react";

let waiting: { promise: Promise<boolean>; resolve: (confirmed: boolean) => void } | null = null;
const listeners = new Set<() => void>();

function notify(): void {
  for (const listener of listeners) listener();
}

/** Ask for the password. True once the user has logged in again, false if they would not. */
export function confirmPassword(): Promise<boolean> {
  if (waiting === null) {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    waiting = { promise, resolve };
    notify();
  }
  return waiting.promise;
}

/** Let the requests that wait go on, or fail. */
export function endStepUp(confirmed: boolean): void {
  waiting?.resolve(confirmed);
  waiting = null;
  notify();
}

export function useIsStepUpWanted(): boolean {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => waiting !== null,
  );
}
