// Calls an endpoint by the JavaScript client, and prints what its callbacks are told and how it ends,
// a line of JSON each. Argument: {"url", "headers", "method", "body", "timeout"}.
import { fetchWithStream } from '../../clients/js/durable-client.js'

const say = (kind, value) => process.stdout.write(`${JSON.stringify([kind, value])}\n`)
const { url, timeout, ...request } = JSON.parse(process.argv[2])

try {
  const response = await fetchWithStream(url, {
    ...request,
    signal: AbortSignal.timeout(timeout),
    onMetadata: event => say('metadata', event),
    onData: event => say('data', event),
    onCommit: event => say('commit', event),
    onRollback: event => say('rollback', event),
  })
  const body = Buffer.from(await response.arrayBuffer()).toString('base64')
  say('response', { status: response.status, headers: [...response.headers], body })
} catch (error) {
  say('error', [error.name, error.message])
}
