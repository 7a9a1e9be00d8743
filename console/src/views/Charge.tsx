import { Skeleton } from "@mantine/core";
import { useParams } from "@tanstack/react-router";
import { useRead } from "../api/read";
import { ChargePicture } from "../components/ChargePicture";
import { ErrorNote } from "../components/ErrorNote";
import { Page } from "../components/Page";
import { RouterAnchor } from "../components/RouterAnchor";
import { isOpen } from "../lib/charge";
import { strings } from "../strings";

/** One charge of the caller. An open one is read again until it is settled. */
export function Charge() {
  const { chargeId } = useParams({ from: "/charges/$chargeId" });
  const params = { path: { charge_id: chargeId } };
  const charge = useRead("/me/charges/{charge_id}", params, { every: (read) => (read && isOpen(read) ? 1_000 : false) });
  return (
    <Page title={strings.charge.title} requests={[charge.request]}>
      <RouterAnchor to="/charges">{strings.charge.back}</RouterAnchor>
      <ErrorNote error={charge.error} />
      {charge.isPending && <Skeleton h={200} />}
      {charge.data && <ChargePicture charge={charge.data} />}
    </Page>
  );
}
