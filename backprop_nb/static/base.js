/* What every front end of backprop_nb needs. Plain JavaScript: no build step, nothing from the network.

A front end is this file with its own file behind it, joined by `live.front_end('tune.js')`: one module, one scope.
So a front end declares nothing at its top level that has a name from here, and calls its root something other than `el`:

  export default { render({ model, el: root }) { const colours = theme(root); ...; return () => colours.stop() } }

  el(tag, attrs, ...children)      an element; 'svg:line' for SVG; attrs: onclick: f, style: {}, class, data-…, aria-…; null and false are left out
  theme(root, onchange)            light or dark as the page is; returns the colours (kept up to date) and stop()
  signed(v), size(v), classes(k)   [r, g, b] for v in [-1, 1] (purple, white, orange), v in [0, 1] (cividis), a class 0, 1, …
  knob(spec, onchange)             a labelled native control from {name, kind, low, high, step, value, options, label, unit, help};
                                   kinds: 'range', 'log' (step: positions a decade, 20), 'whole', 'choice', 'switch', 'words';
                                   {root, input, spec, get(), set(v), disable(yes)}; onchange(value, name) while it is moved
  button(label, onclick, attrs)    a push button; .pressed(yes) makes it a toggle
  Lines(container, options)        a line chart: .draw({name: [xs, ys]}, {at, upto, marks, alt}) ; options x, y, title, alt, xlog, ylog, xlim, ylim, height, dots, colours
  heat(container, options)         a heat map: .draw(array, rows, cols, signed|size|classes|bands, {low, high, points, walks, upto, alt}); options x, y, title, xlim,
                                   ylim, up, aspect, height, key, stretch; row 0 is on top unless `up`, and below where there are axes; bands are the colours of a map, with contour lines
  bars(container, options)         a table of names, bars and numbers: .draw(names, values, {log, low, high, colours})
  table(container, options)        .draw(head, rows): a table, numbers right-aligned
  player(container, {onframe, label, fps})   back, play, on, and a slider over frames; .length(n), .at, .go(i), .stop(); never starts by itself
  say(root, {hidden})              text => the status line, read out (and, unless hidden, shown) at most once a second
  alerts(root)                     text => an error message that can be put away; '' takes it away
  calm()                           does the reader want less motion?
  fmt(v, digits)                   a number for a reader: '0.125', '−3', '1.2×10⁻⁷', '∞', 'NaN'
  floats(view), bytes(view)        typed arrays from the DataViews that come from Bytes

Every canvas counts its paintings in data-frames, and paints at most once a screen frame, the newest picture only. */

// ------------------------------------------------------------------ elements

const SVG = 'http://www.w3.org/2000/svg'
let bpIds = 0
export function newId(word = 'x') { return `bp-${word}-${++bpIds}-${Math.random().toString(36).slice(2, 7)}` }

export function el(tag, attrs = {}, ...children) {
  const node = tag.startsWith('svg:') ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag)
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (name.startsWith('on') && typeof value === 'function') node.addEventListener(name.slice(2), value)
    else if (name.startsWith('aria-')) { if (value != null) node.setAttribute(name, String(value)) }
    else if (value == null || value === false) continue
    else if (name === 'style' && typeof value === 'object') for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v)
    else if (name === 'value' && 'value' in node) node.value = value
    else node.setAttribute(name, value === true ? '' : value)
  }
  for (const child of children.flat(Infinity)) if (child != null && child !== false) node.append(child)
  return node
}

// ------------------------------------------------------------------ numbers and text

const SUPER = { '-': '⁻', 0: '⁰', 1: '¹', 2: '²', 3: '³', 4: '⁴', 5: '⁵', 6: '⁶', 7: '⁷', 8: '⁸', 9: '⁹' }
export function fmt(v, digits = 3) {
  if (typeof v !== 'number') return String(v)
  if (Number.isNaN(v)) return 'NaN'
  if (!Number.isFinite(v)) return v > 0 ? '∞' : '−∞'
  if (v === 0) return '0'
  const minus = v < 0 ? '−' : '', size = Math.abs(v)
  if (Number.isInteger(v) && size < 1e6) return minus + String(size)
  if (size >= 1e5 || size < 1e-3) {
    const [m, e] = size.toExponential(digits - 1).split('e')
    const head = String(Number(m))
    return `${minus}${head === '1' ? '' : head + '×'}10${String(Number(e)).replace(/./g, c => SUPER[c] ?? c)}`
  }
  return minus + String(Number(size.toPrecision(digits)))
}

export function floats(view) {
  if (view instanceof Float32Array) return view
  const { buffer, byteOffset, byteLength } = view
  return byteOffset % 4 ? new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength)) : new Float32Array(buffer, byteOffset, byteLength / 4)
}
export function bytes(view) { return view instanceof Uint8Array ? view : new Uint8Array(view.buffer, view.byteOffset, view.byteLength) }

export function calm() { return matchMedia('(prefers-reduced-motion: reduce)').matches }

// ------------------------------------------------------------------ colours

const PUOR = ['2d004b', '542788', '8073ac', 'b2abd2', 'd8daeb', 'f7f7f7', 'fee0b6', 'fdb863', 'e08214', 'b35806', '7f3b08']
const CIVIDIS = ('00224e 00285b 002e6a 053371 1a386f 273e6e 32436d 3b496c 434e6c 4b546c 535a6d 5a5f6e 61656f 686a71 6f7073 767676 7d7c78 848279 8c8878 938e78 9b9476 ' +
  'a39a74 aba072 b4a76f bcae6c c4b468 cdbb63 d5c25e dec958 e7d150 f0d846 f9e03a fee838').split(' ')
const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16))
function ramp(stops, n = 256) {
  const at = stops.map(s => rgb('#' + s))
  return Array.from({ length: n }, (_, i) => {
    const t = i / (n - 1) * (at.length - 1), k = Math.min(Math.floor(t), at.length - 2)
    return at[k].map((a, c) => Math.round(a + (at[k + 1][c] - a) * (t - k)))
  })
}
const RAMPS = { signed: ramp(PUOR), size: ramp(CIVIDIS) }
const NO_NUMBER = [128, 128, 128]
const pick = (table, t) => Number.isNaN(t) ? NO_NUMBER : table[Math.round(255 * Math.max(0, Math.min(1, t)))]
export function signed(v) { return pick(RAMPS.signed, (v + 1) / 2) }   // -1 purple, 0 white, 1 orange, as viz's PuOr_r
export function size(v) { return pick(RAMPS.size, v) }
export const okabe = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000']
export function classes(k) { return rgb(okabe[((k % 7) + 7) % 7]) }
export function bands(v) { return size(v) }                             // heat() gives it a paler dress and contour lines

const LIGHT = { paper: '#ffffff', raised: '#f7f6f2', ink: '#1f2328', soft: '#5b6068', grid: '#e4e2dc', rule: '#cfccc4', focus: '#0072B2',
                forward: '#0072B2', gradient: '#D55E00', update: '#009E73', truth: '#666666', alarm: '#a5280b', alarmpaper: '#fdf0ec',
                palette: ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#000000'] }
const DARK = { paper: '#16181c', raised: '#1f2227', ink: '#e9e7e1', soft: '#a9adb4', grid: '#2c3037', rule: '#444952', focus: '#7cc4f2',
               forward: '#5cb3ea', gradient: '#f28b45', update: '#2cc99b', truth: '#a8a8a8', alarm: '#ffb49e', alarmpaper: '#35201a',
               palette: ['#5cb3ea', '#f28b45', '#2cc99b', '#e39ac4', '#9ad6f7', '#f2bc4b', '#f2f0ea'] }

function pageIsDark() {
  const jupyter = document.body?.dataset.jpThemeLight ?? document.querySelector('[data-jp-theme-light]')?.dataset.jpThemeLight
  return jupyter ? jupyter === 'false' : matchMedia('(prefers-color-scheme: dark)').matches
}

export function theme(root, onchange) {
  const colours = {}
  root.classList.add('bp')
  root.addEventListener('focusin', e => e.target.setAttribute('data-lm-suppress-shortcuts', 'true'))   // or JupyterLab takes the arrow keys for its cells
  function use(dark, now) {
    Object.assign(colours, dark ? DARK : LIGHT, { dark })
    root.dataset.theme = dark ? 'dark' : 'light'
    root.style.setProperty('color-scheme', dark ? 'dark' : 'light')
    for (const [name, value] of Object.entries(colours)) if (typeof value === 'string') root.style.setProperty(`--bp-${name}`, value)
    colours.palette.forEach((c, i) => root.style.setProperty(`--bp-p${i}`, c))
    for (const canvas of root.querySelectorAll('canvas')) canvas.repaint?.(now)
    onchange?.(colours)
  }
  const refresh = () => { if (pageIsDark() !== colours.dark) use(pageIsDark()) }
  const watch = new MutationObserver(refresh), media = matchMedia('(prefers-color-scheme: dark)')
  if (document.body) watch.observe(document.body, { attributes: true, attributeFilter: ['data-jp-theme-light', 'data-jp-theme-name'] })
  media.addEventListener('change', refresh)
  const toPaper = () => use(false, true), toScreen = () => use(pageIsDark())
  addEventListener('beforeprint', toPaper); addEventListener('afterprint', toScreen)   // paper is white
  root.bpColours = colours
  use(pageIsDark())
  colours.stop = () => { watch.disconnect(); media.removeEventListener('change', refresh); removeEventListener('beforeprint', toPaper); removeEventListener('afterprint', toScreen) }
  return colours
}
const coloursOf = node => node.closest?.('.bp')?.bpColours ?? LIGHT
const mix = (a, b, t) => { const p = rgb(a), q = rgb(b); return `rgb(${p.map((v, i) => Math.round(v + (q[i] - v) * t)).join(' ')})` }

// Names that mean something have their own colour, the others take turns: as viz.styles does
const MEANINGS = { forward: 'forward', gradient: 'gradient', update: 'update', truth: 'truth', train: 'forward', validation: 'gradient', slope: 'gradient' }
const DASHES = [[], [6, 3], [7, 3, 1.5, 3], [1.5, 2.5]]
export function styleOf(names, colours = LIGHT) {
  const taken = new Set(Object.values(MEANINGS).map(m => colours[m])), plain = names.filter(n => !MEANINGS[n]).length
  const free = plain > 4 ? colours.palette : colours.palette.filter(c => !taken.has(c))     // more lines than free colours: all colours take turns
  let next = 0
  const look = {}
  names.forEach((name, i) => { look[name] = { colour: MEANINGS[name] ? colours[MEANINGS[name]] : free[next++ % free.length], dash: DASHES[i % 4] } })
  if ('validation' in look) { if (look.train) look.train.dash = []; look.validation.dash = DASHES[1] }
  return look
}

// ------------------------------------------------------------------ knobs

const nearest = (options, v) => options.findIndex(o => o.value === v || String(o.value) === String(v))

export function knob(spec, onchange) {
  const { name, kind } = spec, id = newId('knob'), label = spec.label ?? String(name).replaceAll('_', ' '), unit = spec.unit ? ' ' + spec.unit : ''
  let value = spec.value, input, output = null, read = () => value, show = () => {}
  const words = v => fmt(v, 3) + unit
  const told = () => { onchange?.(value, name) }

  if (kind === 'choice') {
    const options = spec.options.map(o => (o !== null && typeof o === 'object') ? o : { value: o, label: String(o) })
    input = el('select', {}, options.map((o, i) => el('option', { value: String(i) }, o.label ?? String(o.value))))
    read = () => options[input.selectedIndex]?.value
    show = v => { input.selectedIndex = Math.max(0, nearest(options, v)) }
    input.addEventListener('change', () => { value = read(); told() })
  } else if (kind === 'switch') {
    input = el('input', { type: 'checkbox', role: 'switch' })
    read = () => input.checked
    show = v => { input.checked = !!v; input.setAttribute('aria-checked', String(!!v)) }
    input.addEventListener('change', () => { value = read(); show(value); told() })
  } else if (kind === 'words') {
    input = el('input', { type: 'text', spellcheck: 'false', autocomplete: 'off' })
    show = v => { if (input.value !== String(v)) input.value = String(v) }
    input.addEventListener('input', () => { value = input.value; told() })
  } else if (kind === 'whole' && spec.high - spec.low > 1000) {
    input = el('input', { type: 'number', min: spec.low, max: spec.high, step: spec.step ?? 1 })
    show = v => { input.value = v }
    input.addEventListener('input', () => {
      const v = Math.round(Number(input.value))
      if (input.value !== '' && Number.isFinite(v)) { value = Math.max(spec.low, Math.min(spec.high, v)); told() }
    })
    input.addEventListener('blur', () => show(value))
  } else {
    const log = kind === 'log', per = log ? (spec.step ?? 20) : null
    const decade = v => Math.log10(v) * per
    const low = log ? Math.ceil(decade(spec.low) - 1e-9) : spec.low, high = log ? Math.floor(decade(spec.high) + 1e-9) : spec.high
    // a position outside the round ones at either end, where the range does not end on a round one
    const first = log && 10 ** (low / per) > spec.low * 1.0001 ? low - 1 : low, last = log && 10 ** (high / per) < spec.high * 0.9999 ? high + 1 : high
    const step = log ? 1 : spec.step ?? (kind === 'whole' ? 1 : (high - low) / 100)
    input = el('input', { type: 'range', min: first, max: last, step })
    const value_at = p => log ? Number(Math.max(spec.low, Math.min(spec.high, 10 ** (p / per))).toPrecision(3)) : kind === 'whole' ? Math.round(p) : Number(p.toPrecision(6))
    output = el('output', { class: 'bp-value', for: id })
    show = v => {
      const p = log ? Math.max(first, Math.min(last, Math.round(decade(v)))) : v
      if (Number(input.value) !== p) input.value = p
      const t = (Number(input.value) - first) / (last - first || 1)
      input.style.setProperty('--bp-fill', `${(100 * t).toFixed(2)}%`)
      input.setAttribute('aria-valuetext', words(v))
      output.textContent = words(v)
      output.dataset.value = v
    }
    input.addEventListener('input', () => { value = value_at(Number(input.value)); show(value); told() })
  }
  input.id = id
  input.dataset.knob = name
  const help = spec.help ? el('small', { class: 'bp-help', id: id + '-help' }, spec.help) : null
  if (help) input.setAttribute('aria-describedby', help.id)
  const root = el('div', { class: `bp-knob bp-knob-${kind}` }, el('label', { for: id }, label), output, input, help)
  show(value)
  return { root, input, spec, get: () => value, set(v) { value = v; show(v) }, disable(yes = true) { input.disabled = yes } }
}

export function button(label, onclick, attrs = {}) {
  const node = el('button', { type: 'button', class: 'bp-button', ...attrs, onclick }, label)
  node.pressed = yes => node.setAttribute('aria-pressed', String(!!yes))
  return node
}

// ------------------------------------------------------------------ canvases

const FONT = 'system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif'

function surface(container, options, paint) {
  // a canvas as wide as its container, painted at most once a screen frame; paint(ctx, width, height, colours)
  const canvas = el('canvas', { role: 'img', 'aria-label': options.alt ?? options.title ?? 'picture', 'data-frames': 0 })
  const caption = options.title ? el('figcaption', {}, options.title) : null
  const figure = el('figure', { class: 'bp-figure' }, caption, canvas)
  container.append(figure)
  let asked = 0, frames = 0
  function now() {
    asked = 0
    const width = Math.floor(canvas.clientWidth || figure.clientWidth)
    if (width < 20) return                      // not on the page (yet)
    const height = Math.round(typeof options.height === 'function' ? options.height(width) : options.height ?? Math.min(310, Math.max(180, width * .6)))
    const dpr = Math.min(3, window.devicePixelRatio || 1)
    if (canvas.width !== Math.round(width * dpr) || canvas.height !== Math.round(height * dpr)) {
      canvas.width = Math.round(width * dpr); canvas.height = Math.round(height * dpr)
      canvas.style.height = height + 'px'
    }
    const ctx = canvas.getContext('2d')
    ctx.setTransform(dpr, 0, 0, dpr, 0, 0)
    ctx.clearRect(0, 0, width, height)
    ctx.font = `11.5px ${FONT}`
    paint(ctx, width, height, coloursOf(canvas), dpr)
    canvas.dataset.frames = ++frames
  }
  const repaint = at_once => { if (at_once === true) { if (asked) cancelAnimationFrame(asked); now() } else if (!asked) asked = requestAnimationFrame(now) }
  canvas.repaint = repaint
  const watch = new ResizeObserver(() => repaint())
  watch.observe(figure)
  return { figure, canvas, repaint, describe(text) { if (text && canvas.getAttribute('aria-label') !== text) canvas.setAttribute('aria-label', text) },
           caption(text) { if (caption) caption.textContent = text }, stop() { watch.disconnect(); if (asked) cancelAnimationFrame(asked) } }
}

function ticksOf(low, high, count) {
  const span = high - low
  if (!(span > 0)) return [low]
  const raw = span / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find(m => m * power >= raw * .999) * power
  const found = []
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)))
  return found
}
function logTicks(low, high, count) {
  const a = Math.ceil(Math.log10(low) - 1e-9), b = Math.floor(Math.log10(high) + 1e-9), found = []
  const stride = Math.max(1, Math.ceil((b - a + 1) / Math.max(1, count)))
  for (let k = a; k <= b; k += stride) found.push(10 ** k)
  if (found.length >= 2) return found
  const fine = []
  for (let k = a - 1; k <= b + 1; k++) for (const m of [1, 2, 5]) { const t = m * 10 ** k; if (t >= low * .999 && t <= high * 1.001) fine.push(t) }
  return fine.length ? fine : [low, high]
}
function scaleOf(low, high, from, to, log) {
  const f = log ? Math.log10 : v => v, a = f(low), b = f(high)
  const at = v => from + (f(v) - a) / (b - a || 1) * (to - from)
  at.low = low; at.high = high; at.log = log
  return at
}
function limits(values, log, given) {
  let low = Infinity, high = -Infinity
  for (const vs of values) for (const v of vs) if (Number.isFinite(v) && (!log || v > 0)) { if (v < low) low = v; if (v > high) high = v }
  if (low > high) [low, high] = log ? [.1, 1] : [0, 1]
  if (low === high) { if (log) { low /= 2; high *= 2 } else { const pad = Math.abs(low) * .1 || .5; low -= pad; high += pad } }
  else if (log) { const pad = (high / low) ** .04; low /= pad; high *= pad }
  else { const pad = (high - low) * .05; low -= pad; high += pad }
  return [given?.[0] ?? low, given?.[1] ?? high]
}
const loose = given => given && given[0] != null && given[1] != null ? given : null

function axes(ctx, w, h, xs, ys, o, colours, box) {
  const { left, right, top, bottom } = box
  ctx.lineWidth = 1; ctx.textBaseline = 'middle'
  const xt = (xs.log ? logTicks : ticksOf)(xs.low, xs.high, Math.max(2, Math.floor((right - left) / 64)))
  const yt = (ys.log ? logTicks : ticksOf)(ys.low, ys.high, Math.max(2, Math.floor((bottom - top) / 34)))
  ctx.strokeStyle = colours.grid; ctx.fillStyle = colours.soft; ctx.textAlign = 'right'
  for (const t of yt) {
    const y = Math.round(ys(t)) + .5
    if (y < top - 1 || y > bottom + 1) continue
    if (o.grid !== false) { ctx.beginPath(); ctx.moveTo(left, y); ctx.lineTo(right, y); ctx.stroke() }
    ctx.fillText(fmt(t), left - 6, y)
  }
  ctx.textAlign = 'center'; ctx.textBaseline = 'top'
  ctx.strokeStyle = colours.rule
  for (const t of xt) {
    const x = Math.round(xs(t)) + .5
    if (x < left - 1 || x > right + 1) continue
    ctx.beginPath(); ctx.moveTo(x, bottom); ctx.lineTo(x, bottom + 4); ctx.stroke()
    ctx.fillText(fmt(t), x, bottom + 6)
  }
  ctx.beginPath(); ctx.moveTo(left, bottom + .5); ctx.lineTo(right, bottom + .5); ctx.stroke()
  ctx.fillStyle = colours.ink
  if (o.x) { ctx.textAlign = 'center'; ctx.textBaseline = 'bottom'; ctx.fillText(o.x, (left + right) / 2, h - 1) }
  if (o.y) { ctx.textAlign = 'left'; ctx.textBaseline = 'top'; ctx.fillText(o.y, 0, 0) }
}

function mark(ctx, x, y, kind, colour, edge, r = 4) {
  ctx.beginPath()
  if (kind === 0) ctx.arc(x, y, r, 0, 7)
  else if (kind === 1) ctx.rect(x - r * .9, y - r * .9, 1.8 * r, 1.8 * r)
  else if (kind === 2) { ctx.moveTo(x, y - r * 1.15); ctx.lineTo(x + r, y + r * .8); ctx.lineTo(x - r, y + r * .8); ctx.closePath() }
  else if (kind === 3) { ctx.moveTo(x, y - r * 1.2); ctx.lineTo(x + r * 1.2, y); ctx.lineTo(x, y + r * 1.2); ctx.lineTo(x - r * 1.2, y); ctx.closePath() }
  else { const q = r * .9; ctx.moveTo(x - q, y - q); ctx.lineTo(x + q, y + q); ctx.moveTo(x + q, y - q); ctx.lineTo(x - q, y + q) }
  if (kind >= 4) { ctx.strokeStyle = edge; ctx.lineWidth = 4.5; ctx.stroke(); ctx.strokeStyle = colour; ctx.lineWidth = 2; ctx.stroke(); return }
  ctx.fillStyle = colour; ctx.fill(); ctx.strokeStyle = edge; ctx.lineWidth = 1; ctx.stroke()
}

// the names of lines beside their ends, at least a line's height apart
function endNames(ctx, ends, low, high) {
  ends.sort((a, b) => a.y - b.y)
  const room = 14, at = ends.map(e => Math.max(low, Math.min(high, e.y)))
  for (let i = 1; i < at.length; i++) at[i] = Math.max(at[i], at[i - 1] + room)
  if (at.length && at.at(-1) > high) { at[at.length - 1] = high; for (let i = at.length - 1; i > 0; i--) at[i - 1] = Math.min(at[i - 1], at[i] - room) }
  const x = Math.max(...ends.map(e => e.x))
  ctx.textAlign = 'left'; ctx.textBaseline = 'middle'
  ends.forEach((e, i) => { ctx.fillStyle = e.colour; ctx.fillText(e.name, x, at[i]) })
}

// names in a row above the panel, where there are too many for line ends; returns the height that it takes
function keyRow(ctx, names, look, colours, left, right, top, draw) {
  let x = left, y = top + 6
  for (const name of names) {
    const wide = 22 + ctx.measureText(name).width + 14
    if (x > left && x + wide > right) { x = left; y += 16 }
    if (draw) {
      ctx.strokeStyle = look[name].colour; ctx.lineWidth = 2; ctx.setLineDash(look[name].dash); ctx.beginPath(); ctx.moveTo(x, y); ctx.lineTo(x + 17, y); ctx.stroke(); ctx.setLineDash([])
      ctx.fillStyle = colours.ink; ctx.textAlign = 'left'; ctx.textBaseline = 'middle'; ctx.fillText(name, x + 22, y)
    }
    x += wide
  }
  return y - top + 12
}

export function Lines(container, options = {}) {
  let lines = {}, extra = {}
  const height = options.height ?? (w => {          // a row of names above the panel takes no room from it
    const n = Object.keys(lines).length
    return Math.min(310, Math.max(185, w * .6)) + (n > 4 || (w < 300 && n > 2) ? (w < 340 ? 44 : 26) : 0)
  })
  const s = surface(container, { ...options, height }, (ctx, w, h, colours) => {
    const o = { ...options, ...extra }, names = Object.keys(lines), upto = (o.upto ?? Infinity) + 1, look = styleOf(names, colours)
    if (o.colours) for (const n of names) if (o.colours[n]) look[n].colour = colours[o.colours[n]] ?? o.colours[n]
    const many = names.length > 4 || (w < 300 && names.length > 2), inKey = many ? names : []
    const named = names.length > 1 && !many
    const xl = loose(o.xlim) ?? limits(names.map(n => lines[n][0]), o.xlog, o.xlim), yl = loose(o.ylim) ?? limits(names.map(n => lines[n][1]), o.ylog, o.ylim)
    if (!o.xlim && !o.xlog && names.length) { const all = limits(names.map(n => lines[n][0]), false), pad = (all[1] - all[0]) * .05 / 1.1; xl[0] = all[0] + pad; xl[1] = all[1] - pad }
    const wide = named ? Math.min(w * .36, 10 + Math.max(...names.map(n => ctx.measureText(n).width))) : 10
    const ylab = (o.ylog ? logTicks : ticksOf)(yl[0], yl[1], 5)
    const left = Math.ceil(Math.max(20, ...ylab.map(t => ctx.measureText(fmt(t)).width)) + 10)
    const keyed = many ? keyRow(ctx, inKey, look, colours, left, w - 8, o.y ? 18 : 2, false) : 0
    const box = { left, right: w - wide - 4, top: (o.y ? 22 : 8) + keyed, bottom: h - (o.x ? 38 : 22) }
    const xs = scaleOf(xl[0], xl[1], box.left, box.right, o.xlog), ys = scaleOf(yl[0], yl[1], box.bottom, box.top, o.ylog)
    axes(ctx, w, h, xs, ys, o, colours, box)
    if (many) keyRow(ctx, inKey, look, colours, left, w - 8, o.y ? 18 : 2, true)
    ctx.save(); ctx.beginPath(); ctx.rect(box.left - 5, box.top - 5, box.right - box.left + 10, box.bottom - box.top + 6); ctx.clip()
    if (o.at != null) { ctx.strokeStyle = colours.soft; ctx.lineWidth = 1; ctx.beginPath(); const x = Math.round(xs(o.at)) + .5; ctx.moveTo(x, box.top - 4); ctx.lineTo(x, box.bottom); ctx.stroke() }
    const ends = []
    for (const n of names) {
      const [x, y] = lines[n]
      ctx.strokeStyle = look[n].colour; ctx.lineWidth = 2; ctx.lineJoin = 'round'; ctx.setLineDash(look[n].dash); ctx.beginPath()
      let pen = false, last = null
      for (let i = 0; i < Math.min(y.length, upto); i++) {
        const ok = Number.isFinite(y[i]) && Number.isFinite(x[i]) && !(o.ylog && y[i] <= 0) && !(o.xlog && x[i] <= 0)
        if (!ok) { pen = false; continue }
        const px = xs(x[i]), py = Math.max(-1e4, Math.min(1e4, ys(y[i])))
        pen ? ctx.lineTo(px, py) : ctx.moveTo(px, py)
        pen = true; last = { px, py }
      }
      ctx.stroke(); ctx.setLineDash([])
      if (o.dots === true || o.dots?.includes?.(n)) for (let i = 0; i < Math.min(y.length, upto); i++) if (Number.isFinite(y[i])) mark(ctx, xs(x[i]), ys(y[i]), 0, look[n].colour, colours.paper, 3.4)
      if (o.at != null && y.length) {
        let k = 0
        for (let i = 1; i < x.length; i++) if (Math.abs(x[i] - o.at) < Math.abs(x[k] - o.at)) k = i
        if (Number.isFinite(y[k])) mark(ctx, xs(x[k]), ys(y[k]), 0, look[n].colour, colours.paper, 4.5)
      }
      if (last) ends.push({ x: Math.min(last.px, box.right) + 7, y: last.py, name: n, colour: mix(look[n].colour, colours.ink, .28) })
    }
    for (const m of o.marks ?? []) mark(ctx, xs(m.x), ys(m.y), m.kind ?? 0, colours[m.colour] ?? m.colour ?? colours.ink, colours.paper, m.r ?? 5)
    ctx.restore()
    if (named) endNames(ctx, ends, box.top + 2, box.bottom - 2)
  })
  return { root: s.figure, canvas: s.canvas, stop: s.stop, describe: s.describe,
           draw(newest, more = {}) { lines = newest; extra = more; s.describe(more.alt); s.repaint() } }
}

// ------------------------------------------------------------------ heat maps

function paintCells(values, rows, cols, colour, low, high, up) {
  const c = new OffscreenCanvas(cols, rows), ctx = c.getContext('2d'), im = ctx.createImageData(cols, rows), px = im.data
  const span = high - low || 1, byte = values instanceof Uint8Array
  for (let r = 0; r < rows; r++) for (let k = 0; k < cols; k++) {
    const v = values[r * cols + k], to = 4 * ((up ? rows - 1 - r : r) * cols + k)
    const [R, G, B] = colour === classes ? classes(v) : colour === signed ? signed(byte ? v / 127.5 - 1 : v / (Math.max(Math.abs(low), Math.abs(high)) || 1)) : colour(byte ? v / 255 : (v - low) / span)
    px[to] = R; px[to + 1] = G; px[to + 2] = B; px[to + 3] = 255
  }
  ctx.putImageData(im, 0, 0)
  return c
}

// a map: pale bands between the levels and a thin line along each, sharp at any size
function paintBands(values, rows, cols, levels, up, W, H, colours) {
  const c = new OffscreenCanvas(W, H), ctx = c.getContext('2d'), im = ctx.createImageData(W, H), px = im.data, n = levels.length
  const rank = v => { let k = 0; while (k < n && v >= levels[k]) k++; if (k === 0) return Math.max(-1, levels[0] ? (v - levels[0]) / (Math.abs(levels[1] - levels[0]) || 1) : -1)
                      return k === n ? n - 1 + Math.min(.99, (v - levels[n - 1]) / (Math.abs(levels[n - 1] - (levels[n - 2] ?? 0)) || 1)) : k - 1 + (v - levels[k - 1]) / (levels[k] - levels[k - 1]) }
  const dress = Array.from({ length: n + 1 }, (_, i) => { const p = rgb(colours.paper), q = size(.12 + .83 * i / n), t = colours.dark ? .3 : .2; return p.map((a, j) => a + (q[j] - a) * t) })
  const row = new Float32Array(W), above = new Float32Array(W), ink = rgb(colours.ink)
  for (let y = 0; y < H; y++) {
    const ry = (up ? H - 1 - y : y) / (H - 1) * (rows - 1), r0 = Math.min(rows - 2, Math.floor(ry)), fy = ry - r0
    for (let x = 0; x < W; x++) {
      const rx = x / (W - 1) * (cols - 1), c0 = Math.min(cols - 2, Math.floor(rx)), fx = rx - c0, i = r0 * cols + c0
      row[x] = rank((values[i] * (1 - fx) + values[i + 1] * fx) * (1 - fy) + (values[i + cols] * (1 - fx) + values[i + cols + 1] * fx) * fy)
    }
    for (let x = 0; x < W; x++) {
      const v = row[x], at = 4 * (y * W + x), gx = x ? v - row[x - 1] : row[1] - v, gy = y ? v - above[x] : 0
      const near = Math.abs(v - Math.round(v)) / (Math.hypot(gx, gy) || 1), line = Math.round(v) >= 0 && Math.round(v) < n ? Math.max(0, Math.min(1, 1.1 - near)) * .38 : 0
      const band = dress[Math.max(0, Math.min(n, Math.floor(v) + 1))]
      for (let k = 0; k < 3; k++) px[at + k] = band[k] + (ink[k] - band[k]) * line
      px[at + 3] = 255
    }
    above.set(row)
  }
  ctx.putImageData(im, 0, 0)
  return c
}

export function heat(container, options = {}) {
  let now = null, extra = {}, kept = null
  const height = options.height ?? (w => {
    if (!now) return Math.min(w, 260)
    const aspect = extra.aspect ?? options.aspect
    if (options.xlim) return aspect ? Math.min(460, (w - 52) / aspect + 46 + (Object.keys(extra.walks ?? {}).length > 1 ? 30 : 0)) : Math.min(320, Math.max(180, w * .72))
    return Math.min(420, Math.max(60, (w - 8) * now.rows / now.cols + (options.x ? 20 : 0) + (options.key ? 30 : 0)))
  })
  const s = surface(container, { ...options, height }, (ctx, w, h, colours, dpr) => {
    if (!now) return
    const { values, rows, cols, colour } = now, o = { ...options, ...extra }
    let { low, high } = o
    if (low == null || high == null) {
      let a = Infinity, b = -Infinity
      if (values instanceof Uint8Array) [a, b] = [0, 255]
      else for (const v of values) if (Number.isFinite(v)) { if (v < a) a = v; if (v > b) b = v }
      if (colour === signed) { b = Math.max(Math.abs(a), Math.abs(b)) || 1; a = -b }
      low ??= a; high ??= b
    }
    const scaled = !!o.xlim && !!o.ylim, up = o.up ?? scaled
    const box = scaled ? { left: o.y ? 44 : 36, right: w - 8, top: o.y ? 22 : 8, bottom: h - (o.x ? 38 : 24) } : { left: 0, right: w, top: 0, bottom: h - (o.x ? 20 : 0) - (o.key ? 30 : 0) }
    const names = Object.keys(o.walks ?? {}), look = styleOf(names, colours)
    if (o.colours) for (const n of names) if (o.colours[n]) look[n].colour = colours[o.colours[n]] ?? o.colours[n]
    if (names.length > 1) box.top += keyRow(ctx, names, look, colours, box.left, box.right, box.top - 6, false)
    let W = Math.max(2, box.right - box.left), H = Math.max(2, box.bottom - box.top)
    if (!scaled && !o.stretch) {            // square cells
      const side = Math.min(W / cols, H / rows)
      W = side * cols; H = side * rows
      box.left = (w - W) / 2; box.right = box.left + W; box.bottom = box.top + H
    }
    const key = [values, colour, low, high, up, colours.dark, colour === bands ? `${W}x${H} ${o.levels}` : '']
    if (!kept || key.some((v, i) => v !== kept.key[i])) {
      const picture = colour === bands ? paintBands(values, rows, cols, o.levels ?? [], up, Math.round(W * dpr), Math.round(H * dpr), colours) : paintCells(values, rows, cols, colour, low, high, up)
      kept = { key, picture }
    }
    ctx.imageSmoothingEnabled = false
    ctx.globalAlpha = colour === classes ? .32 : 1
    ctx.drawImage(kept.picture, box.left, box.top, W, H)
    ctx.globalAlpha = 1
    if (scaled) {
      const xs = scaleOf(o.xlim[0], o.xlim[1], box.left, box.right), ys = !up ? scaleOf(o.ylim[0], o.ylim[1], box.top, box.bottom) : scaleOf(o.ylim[0], o.ylim[1], box.bottom, box.top)
      axes(ctx, w, h, xs, ys, { ...o, grid: false }, colours, box)
      if (names.length > 1) keyRow(ctx, names, look, colours, box.left, box.right, (o.y ? 22 : 8) - 6, true)
      ctx.save(); ctx.beginPath(); ctx.rect(box.left, box.top, W, H); ctx.clip()
      for (const n of names) {
        const [x, y] = o.walks[n].map(v => o.upto == null ? v : v.slice(0, o.upto + 1))
        ctx.lineJoin = 'round'
        const trace = () => { ctx.beginPath(); for (let i = 0; i < x.length; i++) if (Number.isFinite(x[i]) && Number.isFinite(y[i])) ctx.lineTo(Math.max(-1e4, Math.min(1e4, xs(x[i]))), Math.max(-1e4, Math.min(1e4, ys(y[i])))); ctx.stroke() }
        ctx.strokeStyle = colours.paper; ctx.lineWidth = 4; ctx.globalAlpha = .7; trace()
        ctx.globalAlpha = 1; ctx.strokeStyle = look[n].colour; ctx.lineWidth = 2; ctx.setLineDash(look[n].dash); trace(); ctx.setLineDash([])
        if (x.length < 40) for (let i = 1; i < x.length - 1; i++) mark(ctx, xs(x[i]), ys(y[i]), 0, look[n].colour, colours.paper, 2.6)
        if (x.length) { mark(ctx, xs(x[0]), ys(y[0]), 0, look[n].colour, colours.paper, 4.5); const e = x.length - 1; mark(ctx, xs(x[e]), ys(y[e]), 4, mix(look[n].colour, colours.ink, .15), colours.paper, 5) }
      }
      const p = o.points
      if (p) for (let i = 0; i < p.x.length; i++) mark(ctx, xs(p.x[i]), ys(p.y[i]), (p.kind?.[i] ?? 0) % 4, colours.palette[(p.kind?.[i] ?? 0) % 7], colours.paper, p.r ?? 3.2)
      ctx.restore()
    } else {
      ctx.strokeStyle = colours.rule; ctx.lineWidth = 1; ctx.strokeRect(box.left + .5, box.top + .5, W - 1, H - 1)
      if (o.x) { ctx.fillStyle = colours.ink; ctx.textAlign = 'center'; ctx.textBaseline = 'top'; ctx.fillText(o.x, (box.left + box.right) / 2, box.bottom + 5) }
    }
    if (o.key && !scaled && colour !== classes) {
      const y = h - 24, wide = Math.min(140, W)
      for (let i = 0; i < wide; i++) { const t = i / (wide - 1), [R, G, B] = colour === signed ? signed(2 * t - 1) : colour(t); ctx.fillStyle = `rgb(${R} ${G} ${B})`; ctx.fillRect(box.left + i, y, 1.5, 8) }
      ctx.fillStyle = colours.soft; ctx.textBaseline = 'top'; ctx.textAlign = 'left'; ctx.fillText(fmt(low), box.left, y + 11); ctx.textAlign = 'right'; ctx.fillText(fmt(high), box.left + wide, y + 11)
    }
  })
  return { root: s.figure, canvas: s.canvas, stop: s.stop, describe: s.describe,
           draw(values, rows, cols, colour = size, more = {}) { now = { values, rows, cols, colour }; extra = more; s.describe(more.alt); s.repaint() } }
}

// ------------------------------------------------------------------ bars and tables

export function bars(container, options = {}) {
  const body = el('tbody'), node = el('table', { class: 'bp-bars' }, options.title ? el('caption', {}, options.title) : null, body)
  container.append(node)
  let shown = []
  return { root: node, draw(names, values, { log = options.log, low = options.low, high = options.high, colours = options.colours, digits = options.digits ?? 3 } = {}) {
    if (names.length !== shown.length || names.some((n, i) => n !== shown[i].name)) {
      body.replaceChildren()
      shown = names.map(name => {
        const bar = el('i', { class: 'bp-bar' }), number = el('td', { class: 'bp-number' })
        body.append(el('tr', {}, el('th', { scope: 'row' }, name), el('td', { class: 'bp-track', 'aria-hidden': 'true' }, el('span', {}, bar)), number))
        return { name, bar, number }
      })
    }
    const f = log ? v => Math.log10(Math.max(v, 1e-300)) : v => v, fine = values.filter(v => Number.isFinite(v) && (!log || v > 0)).map(f)
    const a = low != null ? f(low) : log ? Math.min(...fine) - .5 : Math.min(0, ...fine), b = high != null ? f(high) : Math.max(...fine, log ? -Infinity : 0), span = b - a || 1
    const zero = log ? 0 : Math.max(0, Math.min(1, -a / span))
    values.forEach((v, i) => {
      const t = Number.isFinite(v) && (!log || v > 0) ? Math.max(0, Math.min(1, (f(v) - a) / span)) : zero, { bar, number } = shown[i]
      bar.style.left = `${100 * Math.min(zero, t)}%`; bar.style.width = `${100 * Math.abs(t - zero)}%`
      const colour = Array.isArray(colours) ? colours[i] : colours
      bar.style.background = colour ? `var(--bp-${colour}, ${colour})` : (!log && v < 0 ? 'var(--bp-gradient)' : 'var(--bp-forward)')
      number.textContent = fmt(v, digits); number.dataset.value = v
    })
  } }
}

export function table(container, options = {}) {
  const caption = options.title ? el('caption', {}, options.title) : null, head = el('thead'), body = el('tbody'), node = el('table', { class: 'bp-table' }, caption, head, body)
  container.append(el('div', { class: 'bp-scroll', role: 'group', 'aria-label': options.title ?? 'table', tabindex: 0 }, node))
  let before = ''
  return { root: node, draw(names, rows) {
    const text = JSON.stringify([names, rows])
    if (text === before) return
    before = text
    const cell = (v, tag = 'td', more = {}) => el(tag, { class: typeof v === 'number' ? 'bp-number' : null, 'data-value': typeof v === 'number' ? v : null, ...more }, fmt(v, options.digits ?? 4))
    head.replaceChildren(names?.length ? el('tr', {}, names.map((n, i) => el('th', { scope: 'col', class: typeof rows[0]?.[i] === 'number' ? 'bp-number' : null }, n))) : '')
    body.replaceChildren(...rows.map(r => el('tr', {}, r.map((v, i) => i ? cell(v) : cell(v, 'th', { scope: 'row' })))))
  } }
}

// ------------------------------------------------------------------ frames

export function player(container, { onframe, label = 'step', fps = 10 } = {}) {
  let n = 1, at = 0, timer = 0, due = 0
  const id = newId('scrub'), slider = el('input', { type: 'range', id, min: 0, max: 0, step: 1, value: 0 }), output = el('output', { class: 'bp-value', for: id })
  const play = button('Play', () => timer ? pause() : start(), { class: 'bp-button bp-play' })
  const back = button('Back', () => { pause(); go(at - 1) }, { 'aria-label': `one ${label} back` }), on = button('Step', () => { pause(); go(at + 1) }, { 'aria-label': `one ${label} on` })
  const root = el('div', { class: 'bp-player', role: 'group', 'aria-label': `${label}s` }, el('span', { class: 'bp-buttons' }, back, play, on), el('label', { for: id }, label), slider, output)
  container.append(root)
  slider.addEventListener('input', () => { pause(); go(Number(slider.value)) })
  function show() {
    slider.max = n - 1; slider.value = at; output.textContent = `${at} of ${n - 1}`; output.dataset.value = at
    slider.setAttribute('aria-valuetext', `${label} ${at} of ${n - 1}`); slider.style.setProperty('--bp-fill', `${n > 1 ? 100 * at / (n - 1) : 0}%`)
    back.disabled = at === 0; on.disabled = at >= n - 1; root.hidden = n < 2
  }
  function go(i, quiet) { at = Math.max(0, Math.min(n - 1, i)); show(); if (!quiet) onframe?.(at) }
  function pause() { if (timer) cancelAnimationFrame(timer); timer = 0; play.textContent = 'Play'; play.pressed(false) }
  function start() {
    if (at >= n - 1) go(0)
    play.textContent = 'Pause'; play.pressed(true)
    let last = performance.now(); due = 0
    const still = calm()
    const tick = t => {
      due += Math.max(0, t - last) * fps / 1000; last = t
      const stride = still ? fps : 1                       // less motion: once a second, as far as it has come
      if (due >= stride) { const k = Math.floor(due); due -= k; go(at + k); if (at >= n - 1) return pause() }
      timer = requestAnimationFrame(tick)
    }
    timer = requestAnimationFrame(tick)
  }
  play.pressed(false); show()
  return { root, go, pause, get at() { return at }, get playing() { return !!timer }, length(count) { n = Math.max(1, count); at = Math.min(at, n - 1); show() }, stop: pause }
}

// ------------------------------------------------------------------ words to the reader

export function say(root, { hidden = false } = {}) {   // hidden: heard and not seen
  const line = el('p', { class: hidden ? 'bp-heard' : 'bp-status', role: 'status', 'aria-live': 'polite' })
  root.append(line)
  let next = null, last = -Infinity, timer = 0
  function tell() { timer = 0; if (next !== null && line.textContent !== next) { line.textContent = next; last = performance.now() } next = null }
  const speak = text => { next = String(text); if (!timer) { const wait = 1000 - (performance.now() - last); wait <= 0 ? tell() : timer = setTimeout(tell, wait) } }
  speak.root = line
  speak.stop = () => clearTimeout(timer)
  return speak
}

export function alerts(root) {
  const text = el('span'), away = button('Dismiss', () => show(''), { 'aria-label': 'dismiss the message' }), box = el('div', { class: 'bp-alert', role: 'alert', hidden: true })
  root.append(box)
  function show(message) {
    const said = String(message ?? '')
    if (said === (box.hidden ? '' : text.textContent)) return
    text.textContent = said; box.hidden = !said
    box.replaceChildren(...(said ? [text, away] : []))
  }
  show.root = box
  return show
}
