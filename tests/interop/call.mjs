// Calls an endpoint by the npm client, and prints what its callbacks are told and how it ends, a
// line of JSON each. Argument: {"url", "headers", "form": "object" | "pairs" | "Headers", "timeout"}.
import { fetchWithStream } from "inngest/experimental/durable-endpoints/client";

const say = (kind, value) => process.stdout.write(`${JSON.stringify([kind, value])}\n`);
const { url, headers, form, timeout } = JSON.parse(process.argv[2]);
const forms = {
  object: (fields) => fields,
  pairs: (fields) => Object.entries(fields),
  Headers: (fields) => new Headers(fields),
};

try {
  const response = await fetchWithStream(url, {
    fetchOpts: { headers: forms[form](headers), signal: AbortSignal.timeout(timeout) },
    onMetadata: (event) => say("metadata", event),
    onData: (event) => say("data", event),
    onCommit: (event) => say("commit", event),
    onRollback: (event) => say("rollback", event),
  });
  const body = await response.text();
  say("response", { status: response.status, headers: Object.fromEntries(response.headers), body });
} catch (error) {
  say("error", `${error.name}: ${error.message}`);
}
process.exit(0); // the client leaves connections open that would keep Node alive
