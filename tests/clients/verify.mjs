// Verifies messages with the libraries for Standard Webhooks. Reads [{secret, headers, body}], writes for each
// message what each library said: true, or its error.
import { Webhook as Standard } from "standardwebhooks";
import { Webhook as Svix } from "svix";
import { text } from "node:stream/consumers";

const said = (Library, { secret, headers, body }) => {
  try {
    new Library(secret).verify(body, headers);
    return true;
  } catch (error) {
    return String(error.message);
  }
};
const messages = JSON.parse(await text(process.stdin));
console.log(JSON.stringify(messages.map((one) => ({ standardwebhooks: said(Standard, one), svix: said(Svix, one) }))));
