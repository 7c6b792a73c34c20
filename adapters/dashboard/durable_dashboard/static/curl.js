// A request as a command for a POSIX shell. Whatever is in it stays an argument of curl.

const SKIPPED = new Set(["host", "content-length", "connection", "transfer-encoding", "accept-encoding"]);

/** Returns a text as one word of a shell. */
export function quote(text) {
  if (!/[\x00-\x1f\x7f-\x9f]/.test(text.replace(/[\n\t]/g, ""))) return `'${text.replaceAll("'", "'\\''")}'`;
  const escaped = [...new TextEncoder().encode(text)].map((byte) => {
    if (byte >= 0x20 && byte < 0x7f && byte !== 0x27 && byte !== 0x5c) return String.fromCharCode(byte);
    return `\\x${byte.toString(16).padStart(2, "0")}`;
  });
  return `$'${escaped.join("")}'`;
}

/** Returns the command that asks the same again. */
export function curl(request) {
  const body = request.body, hasBody = body !== null && body.size > 0;
  const words = ["curl -g -i"];
  // With -X HEAD curl would wait for a body, and with a body it would POST what is to be a GET.
  if (request.method === "HEAD" && !hasBody) words.push("-I");
  else if (request.method !== "GET" || hasBody) words.push(`-X ${quote(request.method)}`);
  words.push(quote(request.url));
  for (const [name, value] of request.headers) {
    if (!SKIPPED.has(name.toLowerCase())) words.push(`-H ${quote(value === "" ? `${name};` : `${name}: ${value}`)}`);
  }
  for (const name of request.notStored) words.push(`-H ${quote(`${name}: (not stored)`)}`);
  if (hasBody) words.push(body.text !== null && !body.cut ? `--data-raw ${quote(body.text)}` : "--data-binary @body");
  return words.join(" \\\n  ");
}
