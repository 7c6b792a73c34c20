// Reads the UI message stream protocol, as useChat of the AI SDK does: a message and its parts.

/**
 * Sends a message of the reader, and calls `onMessage(parts)` whenever the answer has changed.
 *
 * The answer is read on where the connection breaks, until it is complete. Each part has a `type`
 * (`text`, `tool`, `step-start`), and `text`, or `name`, `input`, `output` and `approval`.
 * Returns how the answer has ended: the chunk `finish`, `error` or `abort`.
 */
export async function ask(api, chat, messages, { onMessage, onRestart = () => {} }) {
  let response = await connect(api, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ id: chat, messages, trigger: 'submit-message' }),
  })
  for (let restarts = 1; ; restarts++) {
    const end = response && (await read(response, onMessage))
    if (end) return end
    onRestart(restarts)
    await new Promise(resolve => setTimeout(resolve, 300))
    response = await connect(`${api}/${chat}/stream?ended`)
  }
}

async function connect(url, options) {
  const response = await fetch(url, options).catch(() => null) // the server is not there
  return response?.status === 200 && response
}

/** Returns the last chunk, or nothing if the connection broke. */
async function read(response, onMessage) {
  let message = { parts: [], texts: new Map() }
  let rest = ''
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }))
    if (done) return
    const events = (rest + value).split('\n\n')
    rest = events.pop()
    for (const event of events) {
      if (!event.startsWith('data: {')) continue // a comment, or [DONE]
      const chunk = JSON.parse(event.slice(6))
      if (['finish', 'error', 'abort'].includes(chunk.type)) return chunk
      apply(chunk, message)
    }
    onMessage(message.parts)
  }
}

function apply(chunk, message) {
  const { parts, texts } = message
  const call = () => parts.findLast(part => part.id === chunk.toolCallId)
  switch (chunk.type) {
    case 'start-step':
      parts.push({ type: 'step-start' })
      break
    case 'reset-step': // an attempt has failed: what it has shown is void
      while (parts.length && parts.at(-1).type !== 'step-start') parts.pop()
      texts.clear()
      break
    case 'text-start':
      parts.push({ type: 'text', text: '' })
      texts.set(chunk.id, parts.at(-1))
      break
    case 'text-delta':
      texts.get(chunk.id).text += chunk.delta
      break
    case 'tool-input-start':
      parts.push({ type: 'tool', id: chunk.toolCallId, name: chunk.toolName })
      break
    case 'tool-input-available':
      if (!call()) parts.push({ type: 'tool', id: chunk.toolCallId, name: chunk.toolName })
      call().input = chunk.input
      break
    case 'tool-approval-request':
      call().approval = chunk.approvalDescriptor
      break
    case 'tool-output-available':
      call().output = chunk.output
      break
    case 'tool-output-denied':
      call().output = 'not wanted'
      break
  }
}
