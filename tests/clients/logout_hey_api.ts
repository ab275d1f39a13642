// Logs out with a client that hey-api makes. Arguments: URL, tenant's token, user's token.
import { createClient } from "./generated/hey/client/index.js";
import { getAuthStatus, postAuthLogout } from "./generated/hey/index.js";

declare const process: { argv: string[] };
const [baseUrl, tenant, user] = process.argv.slice(2);
const client = createClient({ baseUrl, auth: (scheme) => (scheme.name === "x-tenant-token" ? tenant : user) });
const out = await postAuthLogout({ client });
const status = await getAuthStatus({ client, headers: { "x-passive": "true" } });
const success: true | undefined = out.data?.data.success;
console.log(JSON.stringify({ status: out.response?.status, success, now: status.data?.data.status }));
