// Logs out with a client whose types openapi-typescript makes. Arguments: URL, tenant's token, user's token.
import createClient from "openapi-fetch";
import type { paths } from "./generated/schema.js";

declare const process: { argv: string[] };
const [baseUrl, tenant, user] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl });
client.use({
  onRequest({ request }) {
    request.headers.set("x-tenant-token", tenant);
    request.headers.set("x-token", user);
    return request;
  },
});
const out = await client.POST("/auth/logout");
const status = await client.GET("/auth/status", { params: { header: { "x-passive": "true" } } });
const success: true | undefined = out.data?.data.success;
console.log(JSON.stringify({ status: out.response.status, success, now: status.data?.data.status }));
