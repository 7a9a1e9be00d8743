import { Button } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { findProvider, signOnUrl } from "../api/session";
import { domainOf } from "../lib/signOn";
import { strings } from "../strings";

const PAUSE_MS = 300;

/** Single sign-on, for addresses of a domain whose tenant has an identity provider. `fresh`: it asks for a proof anew. */
export function SignOnButton({ email, fresh }: { email: string; fresh?: boolean }) {
  const domain = domainOf(email);
  const [asked] = useDebouncedValue(domain, PAUSE_MS);
  const found = useQuery({
    queryKey: ["/auth/oidc", asked ?? ""],
    queryFn: () => findProvider(asked ?? ""),
    enabled: asked !== undefined && asked === domain,
  });
  if (!found.data || domain === undefined || asked !== domain) return null;
  return (
    <Button component="a" href={signOnUrl(found.data, fresh)} variant="default">
      {strings.signIn.signOn(domain)}
    </Button>
  );
}
