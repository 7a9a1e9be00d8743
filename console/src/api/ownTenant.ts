/** The tenant of who is signed in. */

import { useRead } from "./read";

/** Its id, for administrators; undefined until it is known. */
export function useOwnTenant(): number | undefined {
  return useRead("/admin/quotas", { query: { limit: 1 } }).data?.data[0]?.tenant_id;
}
