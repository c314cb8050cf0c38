// The page: asks for the status every two seconds, and keeps the console and the screen open.
const $ = (id) => document.getElementById(id)
const socketURL = (path) => new URL(path, location.href.replace(/^http/, 'ws')).href

let session = { locked: true, allowed: false, hidden: false, console: false, screen: false }

async function status() {
  try {
    const answer = await fetch('status', { signal: AbortSignal.timeout(8000) })
    if (answer.ok) show(await answer.json())
    else {
      badge('hidden', '')
      $('reason').textContent = (await answer.text()).trim()
    }
  } catch {
    badge('no answer', 'bad')
    $('reason').textContent = 'vmentry does not answer: the VM may have ended.'
  }
  setTimeout(status, 2000)
}

function badge(text, kind) {
  $('state').textContent = text
  $('state').className = 'badge ' + kind
}

function show(vm) {
  document.title = vm.name + ' – ' + vm.state
  $('name').textContent = vm.name
  const state = vm.stopping ? vm.state + ', being stopped' : vm.ready.ok ? 'ready' : vm.state
  badge(state, !vm.live.ok ? 'bad' : vm.ready.ok ? 'good' : '')
  $('reason').textContent = vm.live.ok ? vm.ready.reason : vm.live.reason
  facts({
    'Up for': duration(vm.uptime_seconds),
    'Addresses': vm.network.addresses.join(', '),
    'In the guest': (vm.interfaces || []).map((i) => `${i.name} ${i.addresses.join(', ')}`).join('; '),
    'Network': vm.network.mode,
    'Ports': vm.network.forwards.join(', '),
    'Machine': `${vm.cpus} CPU${vm.cpus > 1 ? 's' : ''}, ${Math.round(vm.memory_bytes / 2 ** 20)} MiB`,
    'Accelerator': vm.accelerator,
    'Firmware': vm.firmware,
    'Versions': `vmentry ${vm.vmentry}, QEMU ${vm.qemu}`,
  })
  timeline(vm.milestones)
}

function facts(pairs) {
  const list = document.querySelector('#facts dl')
  list.replaceChildren(...Object.entries(pairs).filter(([, text]) => text).flatMap(([name, text]) => [element('dt', name), element('dd', text)]))
}

function element(kind, text = '', className = '') {
  const e = document.createElement(kind)
  e.textContent = text
  e.className = className
  return e
}

// Each milestone has a bar from the one before it to itself.
function timeline(milestones) {
  const whole = Math.max(...milestones.map((m) => m.after_seconds), 0.001)
  let before = 0
  $('milestones').replaceChildren(...milestones.map((m) => {
    const row = element('li')
    const bar = element('div', '', 'bar')
    const piece = element('i')
    piece.style.marginLeft = (100 * before / whole) + '%'
    piece.style.width = (100 * (m.after_seconds - before) / whole) + '%'
    before = m.after_seconds
    bar.append(piece)
    row.append(element('span', m.name), bar, element('span', m.after_seconds.toFixed(2) + ' s', 'time'))
    return row
  }))
}

function duration(seconds) {
  const s = Math.floor(seconds)
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min']].filter(([n]) => s >= n).map(([n, unit]) => Math.floor((s % (n === 86400 ? Infinity : n * (n === 60 ? 60 : 24))) / n) + ' ' + unit)
  return [...parts, (s % 60) + ' s'].slice(0, 2).join(' ')
}

// A terminal, or, where the program was built without its library, plain text.
async function makeTerminal(type) {
  try {
    const [{ Terminal }, { FitAddon }] = await Promise.all([import('../lib/xterm/xterm.mjs'), import('../lib/xterm/addon-fit.mjs')])
    const terminal = new Terminal({ scrollback: 5000, fontSize: 13, theme: { background: '#0b0f13' }, convertEol: false })
    const fit = new FitAddon()
    terminal.loadAddon(fit)
    terminal.open($('console'))
    fit.fit()
    new ResizeObserver(() => fit.fit()).observe($('console'))
    terminal.onData(type)
    return { write: (b) => terminal.write(b), reset: () => terminal.reset(), text: () => lines(terminal), input: (yes) => { terminal.options.disableStdin = !yes } }
  } catch (problem) {
    console.warn('a plain console, because', problem)
    const pre = element('pre')
    $('console').append(pre)
    const decoder = new TextDecoder()
    return {
      write: (b) => { pre.textContent = (pre.textContent + decoder.decode(b, { stream: true }).replace(/\x1b\[[0-9;?]*[A-Za-z]|\r/g, '')).slice(-1e5); pre.scrollTop = pre.scrollHeight },
      reset: () => { pre.textContent = '' }, text: () => pre.textContent, input: () => {},
    }
  }
}

function lines(terminal) {
  const buffer = terminal.buffer.active
  return Array.from({ length: buffer.length }, (_, i) => buffer.getLine(i).translateToString(true)).join('\n')
}

let consoleSocket

async function openConsole() {
  const encoder = new TextEncoder()
  const terminal = await makeTerminal((keys) => { if (session.allowed && consoleSocket?.readyState === WebSocket.OPEN) consoleSocket.send(encoder.encode(keys)) })
  window.consoleText = terminal.text // for tests and for those who look behind the page
  const connect = () => {
    const socket = consoleSocket = new WebSocket(socketURL('console'))
    socket.binaryType = 'arraybuffer'
    socket.onmessage = ({ data }) => {
      if (typeof data !== 'string') return terminal.write(new Uint8Array(data))
      terminal.reset() // the history begins
      const { input } = JSON.parse(data)
      terminal.input(input)
      $('hint').textContent = input ? 'What you type goes to the guest.' : session.locked ? 'Read-only.' : 'Read-only until the token is given.'
    }
    socket.onclose = () => { if (socket === consoleSocket) setTimeout(() => learnSession().catch(() => {}).then(connect), 2000) }
  }
  connect()
}

let rfb

async function openScreen() {
  const { default: RFB } = await import('../lib/novnc/core/rfb.js')
  const connect = () => {
    rfb?.disconnect()
    $('screen').replaceChildren()
    const mine = rfb = new RFB($('screen'), socketURL('screen'), { wsProtocols: [] })
    mine.scaleViewport = true
    mine.viewOnly = !session.allowed
    mine.addEventListener('connect', () => { $('screen').dataset.connected = 'yes' })
    mine.addEventListener('disconnect', () => { delete $('screen').dataset.connected; if (mine === rfb) setTimeout(connect, 2000) })
  }
  connect()
  return connect
}

let reconnectScreen

function choose(which) {
  for (const part of ['console', 'screen']) {
    $(part).hidden = part !== which
    $('tab-' + part).setAttribute('aria-selected', part === which)
  }
  if (which === 'screen') reconnectScreen ??= openScreen()
}

async function learnSession() {
  session = await (await fetch('session')).json()
  $('buttons').hidden = !session.allowed
  $('unlock').hidden = session.locked || session.allowed
}

// What is open was opened as somebody else.
async function changedSession() {
  const { hidden } = session
  await learnSession()
  if (hidden !== session.hidden) return location.reload()
  const old = consoleSocket
  if (old?.readyState === WebSocket.OPEN) old.close()
  if (reconnectScreen) (await reconnectScreen)()
}

$('unlock').onsubmit = async (event) => {
  event.preventDefault()
  $('refused').textContent = ''
  const answer = await fetch('session', { method: 'POST', body: JSON.stringify({ token: $('token').value }) })
  $('token').value = ''
  if (!answer.ok) { $('refused').textContent = (await answer.text()).trim(); return }
  await changedSession()
}

$('leave').onclick = async () => {
  await fetch('session', { method: 'DELETE' })
  await changedSession()
}

for (const button of document.querySelectorAll('[data-press]')) {
  button.onclick = async () => {
    if (button.dataset.ask && !confirm(button.dataset.ask)) return
    const answer = await fetch('power/' + button.dataset.press, { method: 'POST' })
    if (!answer.ok) alert((await answer.text()).trim())
  }
}

$('tab-console').onclick = () => choose('console')
$('tab-screen').onclick = () => choose('screen')

await learnSession()
$('tabs').hidden = !session.screen || !session.console
$('console-title').hidden = !$('tabs').hidden
if (session.hidden) $('work').hidden = true
else if (session.console) openConsole()
else if (session.screen) { $('console-title').textContent = 'Screen'; choose('screen') }
else $('work').hidden = true
status()
