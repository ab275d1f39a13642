// An OpenID provider (oidc-provider) on loopback. A line on standard input replaces its keys, and is answered with a line.
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [packages, port] = process.argv.slice(2);
const resolved = createRequire(`${packages}/`).resolve("oidc-provider");
const { Provider } = await import(pathToFileURL(resolved));
const issuer = `http://127.0.0.1:${port}`;

function handler(jwks) {
  const provider = new Provider(issuer, {
    jwks,
    clients: [
      {
        client_id: "alice",
        client_secret: "a-secret-of-a-client-on-loopback",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: jwks.keys[0].alg,
      },
    ],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({
          scope: "api",
          audience: "urn:api",
          accessTokenFormat: "jwt",
          jwt: { sign: { alg: jwks.keys[0].alg } },
        }),
      },
    },
  });
  return provider.callback();
}

let answer = null;
const server = createServer((request, response) => answer(request, response));
for await (const line of createInterface({ input: process.stdin })) {
  answer = handler(JSON.parse(line));
  if (!server.listening) await new Promise((done) => server.listen(Number(port), "127.0.0.1", done));
  console.log("ready");
}
