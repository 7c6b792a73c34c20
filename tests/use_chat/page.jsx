// A chat page with the real hook. What a reader sees is in window.seen, each change once.
import { DefaultChatTransport } from 'ai'
import { Chat, useChat } from '@ai-sdk/react'
import { useEffect } from 'react'
import { createRoot } from 'react-dom/client'

const query = new URLSearchParams(location.search)
window.seen = []
window.ends = []

const options = {
  id: query.get('chat'),
  transport: new DefaultChatTransport({
    api: query.get('api'),
    prepareReconnectToStreamRequest: ({ api, id }) => ({
      api: `${api}/${id}/stream${query.has('ended') ? '?ended' : ''}`,
    }),
  }),
  onFinish: ({ isAbort, isDisconnect, isError, finishReason }) => {
    window.ends.push({ isAbort, isDisconnect, isError, finishReason })
    const wasCutOff = isDisconnect || (!isAbort && !isError && finishReason === undefined)
    if (wasCutOff && !query.has('reload')) setTimeout(resume, 100)
  },
}
const created = query.has('object') ? { chat: new Chat(options) } : options

async function resume() {
  await window.chat.resumeStream()
  if (window.chat.status === 'error') setTimeout(resume, 100) // the server is not up yet
}

function Page() {
  const chat = useChat({ ...created, resume: query.has('resume') })
  window.chat = chat
  const shown = chat.messages
    .filter(message => message.role === 'assistant')
    .flatMap(message => message.parts)
    .filter(part => part.type !== 'step-start')
    .map(part => part.text ?? JSON.stringify(part.output ?? part.data ?? part.input))
  const text = JSON.stringify(shown)
  useEffect(() => { window.seen.push(JSON.parse(text)) }, [text])
  return (
    <main>
      <p id="status">{chat.status}</p>
      {shown.map((part, index) => <p className="part" key={index}>{part}</p>)}
    </main>
  )
}

createRoot(document.getElementById('root')).render(<Page />)
