/**
 * Calls durable endpoints and follows the streams of their runs, in browsers and in Node.
 *
 * A run's stream begins in the response to the first request. An `inngest.redirect_info` event names
 * the URL where it goes on after a handoff, and after a broken connection. The first request is never
 * sent twice: it would begin a second run.
 */

const EVENT_STREAM = 'text/event-stream'
/** Statuses of servers and proxies that cannot answer now. */
const TRY_AGAIN = [429, 502, 503, 504]
/** Milliseconds: of the first pause between two connections, and of the longest. */
const FIRST_PAUSE = 250
const LONGEST_PAUSE = 30_000
/** A connection that stayed open for so many milliseconds counts as progress, even without events. */
const PROGRESS = 1_500
/** Servers refuse a longer event id, as it is part of a request's head. */
const LONGEST_ID = 8 * 1024
const WITHOUT_BODY = [204, 205, 304]
/** What a request without a body has no use for. */
const CONTENT_FIELDS = ['content-type', 'content-length', 'content-encoding', 'content-language']

/** The run's response did not come: the stream ended, or broke too often. */
export class StreamError extends Error {
  name = 'StreamError'
}

/**
 * Call an endpoint; return the response of its run, or what the server answered instead.
 *
 * The callbacks are called in the order of the events, and each is awaited before the next. Chunks of
 * a step count when its `onCommit` comes, and are void when its `onRollback` comes.
 *
 * @throws StreamError no response came. TypeError: the server cannot be reached. DOMException: the
 *   signal was aborted.
 */
export async function fetchWithStream(url, options = {}) {
  const { onMetadata, onData, onCommit, onRollback, maxReconnects = 10, fetch = globalThis.fetch,
    ...request } = options
  const callbacks = {
    'inngest.metadata': onMetadata,
    'inngest.stream': onData,
    'inngest.commit': onCommit,
    'inngest.rollback': onRollback,
  }
  const call = new Call(String(url), request, fetch, maxReconnects)
  for (;;) {
    const response = await call.connect()
    if (!isStream(response)) {
      if (await call.mustAskAgain(response)) continue
      return response
    }
    const final = await call.read(response, (type, data) => callbacks[type]?.(data))
    if (final !== undefined) return responseOf(final)
    await call.pauseAfterBreak()
  }
}

/** One call: what was asked, and how far its stream has come. */
class Call {
  #url
  #request
  #fetch
  #headers
  #base
  #resumeAt = null
  #lastEventId = ''
  #wasAnswered = false
  #failures = 0
  #firstPause = FIRST_PAUSE
  #maxReconnects

  constructor(url, request, fetch, maxReconnects) {
    this.#url = url
    this.#request = request
    this.#fetch = (...args) => fetch(...args) // not as a method: browsers' own refuses that
    this.#maxReconnects = maxReconnects
    this.#headers = new Headers(request.headers)
    const accepted = this.#headers.get('accept')
    this.#headers.set('accept', accepted ? `${accepted}, ${EVENT_STREAM}` : EVENT_STREAM)
  }

  /** Send the next request; wait and try again while the run is known and cannot be reached. */
  async connect() {
    for (;;) {
      try {
        const response = await (this.#resumeAt === null ? this.#begin() : this.#resume())
        this.#wasAnswered = true
        this.#base = response.url || this.#base
        if (this.#resumeAt === null && isWaitUrl(this.#base)) this.#resumeAt = this.#base
        return response
      } catch (error) {
        if (!(error instanceof TypeError) || !this.#wasAnswered) throw error
        await this.pauseAfterBreak()
      }
    }
  }

  #begin() {
    this.#base = new URL(this.#url, globalThis.location?.href).href
    return this.#fetch(this.#url, { ...this.#request, headers: this.#headers })
  }

  #resume() {
    const { method, body, ...request } = this.#request
    const isSameOrigin = new URL(this.#resumeAt).origin === new URL(this.#base).origin
    const headers = new Headers(isSameOrigin ? this.#headers : {})
    for (const name of CONTENT_FIELDS) headers.delete(name)
    headers.set('accept', this.#headers.get('accept'))
    if (this.#lastEventId) headers.set('last-event-id', asOctets(this.#lastEventId))
    return this.#fetch(this.#resumeAt, { ...request, headers })
  }

  /** Tell whether a response that is no stream asks for another request; pause before it. */
  async mustAskAgain(response) {
    const retryAfter = response.headers.get('retry-after')
    const seconds = /^[0-9]{1,6}$/.test(retryAfter ?? '') ? Number(retryAfter) : null
    const location = response.headers.get('location')
    if (response.status === 202 && location !== null && retryAfter !== null) {
      this.#resumeAt = this.#resolve(location)
      await response.body?.cancel()
      await this.#pause(Math.max(FIRST_PAUSE, (seconds ?? 5) * 1000))
      return true
    }
    if (this.#resumeAt === null) return false
    if (response.status === 204) throw new StreamError('the stream has ended without a response')
    if (!TRY_AGAIN.includes(response.status)) return false
    await response.body?.cancel()
    await this.pauseAfterBreak((seconds ?? 0) * 1000)
    return true
  }

  /** Deliver the events of a response; return the data of the run's response, or undefined. */
  async read(response, deliver) {
    const openedAt = Date.now()
    const decoder = new EventDecoder()
    const text = new TextDecoder()
    const reader = response.body.getReader()
    try {
      for (let data; (data = await this.#nextPart(reader)) !== undefined;) {
        for (const event of decoder.decode(text.decode(data, { stream: true }))) {
          const final = await this.#take(event, deliver)
          if (final !== undefined) return final
        }
      }
      return undefined
    } finally {
      if (Date.now() - openedAt > PROGRESS) this.#failures = 0
      await reader.cancel().catch(() => {})
    }
  }

  /** Return the next part of a body; undefined at its end, and when the connection broke. */
  async #nextPart(reader) {
    try {
      return (await reader.read()).value
    } catch (error) {
      if (!(error instanceof TypeError) || this.#request.signal?.aborted) throw error
      return undefined
    }
  }

  /** Deliver an event, or keep what is the client's own; return the data of the response. */
  async #take({ type, id, data, retry }, deliver) {
    if (retry !== undefined) this.#firstPause = Math.min(retry, LONGEST_PAUSE)
    if (id !== undefined) this.#lastEventId = id
    if (data === undefined) return undefined
    this.#failures = 0
    const value = parse(type, data)
    if (type === 'inngest.response') return value
    if (type === 'inngest.redirect_info') this.#resumeAt = this.#resolve(value.url)
    await deliver(type, value)
    return undefined
  }

  /** Pause before the next connection, longer after each one in a row that brought nothing. */
  async pauseAfterBreak(atLeast = 0) {
    if (this.#resumeAt === null) {
      throw new StreamError('the connection broke before the server said where the run goes on')
    }
    if (this.#lastEventId.length > LONGEST_ID) {
      throw new StreamError('the id of the last event is too long to resume the stream with')
    }
    if (this.#failures >= this.#maxReconnects) {
      throw new StreamError(`${this.#failures} attempts to reconnect brought nothing`)
    }
    const pause = Math.min(Math.max(this.#firstPause, 20) * 2 ** this.#failures, LONGEST_PAUSE)
    this.#failures += 1
    await this.#pause(Math.max(atLeast, pause * (0.5 + Math.random() / 2)))
  }

  #pause(milliseconds) {
    const { signal } = this.#request
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      const stop = () => (clearTimeout(timer), reject(signal.reason))
      const go = () => (signal?.removeEventListener('abort', stop), resolve())
      const timer = setTimeout(go, milliseconds)
      signal?.addEventListener('abort', stop, { once: true })
    })
  }

  #resolve(reference) {
    const url = new URL(reference, this.#base)
    if (url.protocol === 'http:' && this.#base.startsWith('https:')) {
      throw new StreamError(
        'the server names an http:// URL on an https:// connection, where others could read the ' +
          'token in it; behind a TLS proxy set Durable(public_url=) on the server',
      )
    }
    return url.href
  }
}

/** Makes events of the text of a stream (WHATWG HTML, server-sent events), whose lines may be cut. */
class EventDecoder {
  #event = {}
  #rest = '';

  *decode(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/)
    this.#rest = lines.pop()
    for (const line of lines) {
      if (line !== '') {
        this.#take(line)
        continue
      }
      const event = this.#event
      this.#event = {}
      if (Object.keys(event).length > 0) yield event
    }
  }

  #take(line) {
    const [, name, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line)
    if (name === 'event') this.#event.type = value
    if (name === 'data') {
      const before = this.#event.data
      this.#event.data = before === undefined ? value ?? '' : `${before}\n${value ?? ''}`
    }
    if (name === 'id' && !value?.includes('\0')) this.#event.id = value ?? ''
    if (name === 'retry' && /^[0-9]+$/.test(value)) this.#event.retry = Number(value)
  }
}

function parse(type, data) {
  try {
    return JSON.parse(data)
  } catch {
    throw new StreamError(`an event of the type ${type} has data that is no JSON`)
  }
}

function isStream(response) {
  const type = response.headers.get('content-type')?.split(';')[0].trim().toLowerCase()
  return response.status === 200 && type === EVENT_STREAM && response.body !== null
}

/** Tell whether a URL reads a run, so that a second request does not begin another one. */
function isWaitUrl(url) {
  const names = new URL(url).searchParams
  return (names.has('durable-run') && names.has('durable-token')) ||
    (names.has('runId') && names.has('token'))
}

/** Return the response that the last event of a stream describes. */
function responseOf({ response }) {
  const { body, statusCode: status, headers, encoding } = response
  const content = encoding === 'base64' ? Uint8Array.from(atob(body), each => each.charCodeAt(0)) : body
  return new Response(WITHOUT_BODY.includes(status) ? null : content, { status, headers })
}

/** Return text as fetch takes it in a header field: an octet of its UTF-8 for each character. */
function asOctets(text) {
  return String.fromCharCode(...new TextEncoder().encode(text))
}
