// Signs with npm's libraries: jose, jsonwebtoken, fast-jwt, node-jose.
import { createPrivateKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.argv[2]}/`);
const { claims, keys } = JSON.parse(readFileSync(0, "utf8"));
const version = (name) => JSON.parse(readFileSync(`${process.argv[2]}/node_modules/${name}/package.json`)).version;

const libraries = {
  jose: async (alg, key) => {
    const { SignJWT } = await import(require.resolve("jose"));
    const made = key.secret ? new TextEncoder().encode(key.secret) : createPrivateKey(key.pem);
    return new SignJWT(claims).setProtectedHeader({ alg }).sign(made);
  },
  jsonwebtoken: async (alg, key) => require("jsonwebtoken").sign(claims, key.secret ?? key.pem, { algorithm: alg }),
  "fast-jwt": async (alg, key) => require("fast-jwt").createSigner({ algorithm: alg, key: key.secret ?? key.pem })(claims),
  "node-jose": async (alg, key) => {
    const { JWK, JWS } = require("node-jose");
    const made = key.secret ? await JWK.asKey({ ...key.jwk, alg }) : await JWK.asKey(key.pem, "pem", { alg });
    const options = { format: "compact", fields: { alg } };
    return JWS.createSign(options, { key: made, reference: false }).update(JSON.stringify(claims)).final();
  },
};

for (const [library, sign] of Object.entries(libraries)) {
  for (const [alg, key] of Object.entries(keys)) {
    const line = { library, version: version(library), alg };
    try {
      line.token = await sign(alg, key);
    } catch (error) {
      line.error = error.name;
    }
    console.log(JSON.stringify(line));
  }
}
