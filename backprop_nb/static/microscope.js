/* The front end of microscope.Microscope, and of the page that Trace.to_html writes.

   microscope(root, scene, kernel)   draws a scene (a dictionary, see `scene` in the Python module) into root.
   kernel is null on a page of its own; in a notebook it is { ask({id, edits, step, fault}), onanswer: f } and computes what was not sent along.

   All numbers come from the package. What is done here: stepping, picking, following paths, and saying how a number came about from those it was made of. */

const worded = v => typeof v === 'string' ? ({ nan: NaN, inf: Infinity, '-inf': -Infinity })[v] ?? Number(v) : v
const KINDS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array, uint8: Uint8Array }

function unpackArray(a) {
  if (a.data) return { shape: a.shape, data: a.data.map(worded) }
  const raw = Uint8Array.from(atob(a.bytes), c => c.charCodeAt(0))
  const data = new KINDS[a.dtype](raw.buffer)
  return { shape: a.shape, data: data instanceof BigInt64Array ? Array.from(data, Number) : data }
}
const unpackAll = dict => Object.fromEntries(Object.entries(dict).map(([k, v]) => [k, unpackArray(v)]))
function unpackFrame(f) {
  if (!f) return null
  return { ...f, values: unpackAll(f.values), grads: unpackAll(f.grads), nudged: unpackAll(f.nudged), slopes: unpackArray(f.slopes).data }
}

const svg = (tag, attrs, ...children) => el('svg:' + tag, attrs, ...children)
const key = (name, i) => `${name}#${i}`

export function microscope(root, scene, kernel = null) {
  root.replaceChildren()
  let ready = false
  const colours = theme(root, () => { if (ready) paint() })
  root.classList.add('bp-micro')
  root.setAttribute('role', 'group'); root.setAttribute('aria-label', 'backward, number by number: ' + scene.trace.title)

  // ---------------------------------------------------------------- what there is
  const T = scene.trace, calls = T.calls, steps = T.steps, small = scene.edges.length > 0
  const edges = scene.edges.map(([a, i, b, j, call], at) => ({ a, i, b, j, call, at }))
  const from = {}, into = {}
  for (const e of edges) { (from[key(e.a, e.i)] ??= []).push(e); (into[key(e.b, e.j)] ??= []).push(e) }
  const frames = new Map()                                   // how -> frame
  const how = (step, fault, edits) => JSON.stringify([step, fault, edits])
  for (const [t, f] of Object.entries(scene.frames)) frames.set(how(Number(t), '', []), unpackFrame(f))
  for (const f of scene.faults) if (f.frame) frames.set(how(0, f.name, []), unpackFrame(f.frame))
  const first = frames.get(how(0, '', []))
  const names = [...new Set(calls.flatMap(c => [...c.inputs.filter(a => a), c.out]))], n = T.n ?? 1, end = calls.at(-1).out
  const isLeaf = name => name in T.kinds, given = name => T.kinds[name] === 'given', maker = name => calls.find(c => c.out === name)
  const shapeOf = name => first.values[name].shape
  const sizeOf = name => first.values[name].data.length
  const batched = name => T.n && shapeOf(name).length > 0 && shapeOf(name)[0] === T.n && T.kinds[name] !== 'weight'
  const rowsOf = (name, example) => { const m = sizeOf(name); if (!batched(name)) return [...Array(m).keys()]; const w = m / n; return [...Array(w).keys()].map(k => example * w + k) }
  const exampleOf = (name, i) => batched(name) ? Math.floor(i / (sizeOf(name) / n)) : null
  function label(name, i) {
    const shape = shapeOf(name); if (!shape.length) return name
    const at = []; for (let d = shape.length - 1; d >= 0; d--) { at.unshift(i % shape[d]); i = Math.floor(i / shape[d]) }
    return `${name}[${at.join(', ')}]`
  }
  const brief = (name, i) => batched(name) ? label(name, i).replace(/\[\d+(, )?/, shapeOf(name).length > 1 ? '[' : '[').replace('[]', '') : label(name, i)

  // ---------------------------------------------------------------- what is looked at
  const state = { walk: steps.length - 1, step: 0, fault: '', example: 0, picked: null, path: -1, edits: [], check: false }
  let now = first, base = null, losses = scene.losses, waiting = 0, answered = 0

  // ---------------------------------------------------------------- the page
  const batchWords = T.n ? `${T.n} example${T.n === 1 ? '' : 's'}` : 'no batch'
  root.append(el('div', { class: 'bpm-head' }, el('p', { class: 'bpm-title' }, T.title), el('p', { class: 'bpm-sub' }, `${calls.length} operations, ${batchWords}, ${names.filter(k => !given(k)).reduce((s, k) => s + sizeOf(k), 0).toLocaleString('en')} numbers`)))
  const alarm = alerts(root)
  const film = player(root, { label: 'operation', fps: 1.5, onframe: i => { state.walk = i; paint(); follow() } })
  film.root.classList.add('bpm-player')
  const strip = el('ol', { class: 'bpm-strip', 'aria-label': 'all operations in order' })
  const marks = steps.map((s, i) => button(s.phase === 'backward' ? `d${s.array}` : s.array, () => { film.stop(); film.go(i) }, { class: `bpm-op bpm-${s.phase}`, tabindex: -1, 'aria-label': `operation ${i}: ${s.phase}, ${s.name} makes ${s.phase === 'backward' ? 'the gradient of ' : ''}${s.array}`, title: s.name }))
  marks.forEach(m => strip.append(el('li', {}, m)))
  strip.addEventListener('keydown', e => {
    const d = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[e.key]; if (!d) return
    e.preventDefault(); film.go(Math.max(0, Math.min(steps.length - 1, state.walk + d))); marks[state.walk].focus()
  })
  const card = el('section', { class: 'bpm-card', 'aria-label': 'this operation' })
  const view = el('div', { class: 'bpm-view' })
  const judge = el('p', { class: 'bpm-judge' })
  const number = el('section', { class: 'bpm-number', 'aria-label': 'the number you picked' })
  const controls = el('div', { class: 'bpm-controls' })
  root.append(el('div', { class: 'bpm-walk' }, strip, card), view, judge, el('div', { class: 'bpm-below' }, number, controls))

  // controls
  const kn = {}
  if (T.n > 1 && small) kn.example = knob({ name: 'example', kind: 'range', low: 0, high: T.n - 1, step: 1, value: 0, label: 'example', help: 'which row of the batch is drawn' }, v => { state.example = v; movePick(); paint() })
  const sent = Object.keys(scene.frames).map(Number).sort((a, b) => a - b), stride = kernel ? 1 : (sent[1] ?? 1)
  const most = kernel ? scene.n_steps : sent.at(-1)
  if (most > 0) kn.step = knob({ name: 'step', kind: 'range', low: 0, high: most, step: stride, value: 0, label: 'training step', help: scene.opt }, v => { state.step = v; look() })
  const faultHelp = () => { const f = scene.faults.find(f => f.name === state.fault); return f ? f.words + (f.frame || kernel ? '' : ' (the maps stay those of the right rules; the verdict and the loss are those of the mistake)') : 'mistakes that people make' }
  if (scene.faults.length) kn.fault = knob({ name: 'fault', kind: 'choice', value: '', label: 'mistake in the rules', help: faultHelp(),
    options: [{ value: '', label: 'none' }, ...scene.faults.map(f => ({ value: f.name, label: f.name + (f.wrong.length ? '' : ' (no effect here)') }))] }, v => {
    state.fault = v
    if (!kernel && kn.step) { if (v) { state.step = 0; kn.step.set(0) } kn.step.disable(!!v) }
    if (v && !state.check && kn.check) { state.check = true; kn.check.set(true) }
    kn.fault.root.querySelector('.bp-help').textContent = faultHelp()
    look()
  })
  if (small) kn.check = knob({ name: 'check', kind: 'switch', value: false, label: 'nudged slope beside every gradient' }, v => { state.check = v; paint() })
  const undo = button('Undo all edits', () => { state.edits = []; look() }, { hidden: true })
  const chartBox = el('div', { class: 'bpm-chart' })
  controls.append(el('div', { class: 'bp-knobs' }, Object.values(kn).map(k => k.root)), undo, chartBox)
  const chart = scene.losses.length > 1 ? Lines(chartBox, { title: 'loss over training', x: 'step', height: 150, alt: 'the loss over the steps of training' }) : null
  const speak = say(root)

  // ---------------------------------------------------------------- from state to frame
  function look() {
    undo.hidden = !state.edits.length
    const id = how(state.step, state.fault, state.edits)
    const asked = ++waiting
    delete root.dataset.busy
    if (frames.has(id) && !state.edits.length) { now = frames.get(id); base = null; losses = state.fault ? scene.faults.find(f => f.name === state.fault).losses : scene.losses; return paint() }
    if (!kernel) {                                           // a large trace on a page of its own: the verdict only
      const f = scene.faults.find(f => f.name === state.fault)
      if (f) { now = { ...first, wrong: f.wrong, rule: f.rule, errors: {} }; losses = f.losses }
      return paint()
    }
    root.dataset.busy = 'yes'
    kernel.ask({ id: asked, edits: state.edits, step: state.step, fault: state.fault })
  }
  function onanswer(reply) {
    if (reply.id !== waiting) return                         // newest wins
    delete root.dataset.busy
    now = unpackFrame(reply.frame); base = unpackFrame(reply.base); losses = reply.losses
    if (!state.edits.length) frames.set(how(state.step, state.fault, []), now)
    root.dataset.answers = ++answered
    paint()
  }
  if (kernel) kernel.onanswer = onanswer

  // ---------------------------------------------------------------- what can be seen at this operation
  const madeAt = {}, gradAt = {}
  steps.forEach((s, k) => { if (s.phase === 'backward') gradAt[s.array] = k; else madeAt[s.array] = k })
  gradAt[end] = madeAt[end]
  const seen = name => isLeaf(name) || madeAt[name] <= state.walk
  const gradSeen = name => name in now.grads && gradAt[name] != null && gradAt[name] <= state.walk
  const value = (name, i) => now.values[name].data[i], grad = (name, i) => now.grads[name]?.data[i], nudge = (name, i) => now.nudged[name]?.data[i]
  const differs = (what, name, i) => base && !Object.is(base[what][name]?.data[i], now[what][name]?.data[i])
  function isWrong(name, i) {
    if (!now.wrong.includes(name)) return false
    const g = grad(name, i), t = nudge(name, i)
    if (t === undefined || Number.isNaN(t)) return true
    return !(Math.abs(g - t) <= 1e-4 * (Math.abs(g) + Math.abs(t)) + 1e-8)
  }

  // ---------------------------------------------------------------- how a number came about: the same two lines as Trace.explain
  const sum = (terms, up = 6) => terms.slice(0, up).join(' + ') + (terms.length > up ? ` + … (${terms.length - up} more)` : '')
  function messagesOf(name, i) {
    return (from[key(name, i)] ?? []).filter(e => e.b in now.grads).map(e => ({ e, g: grad(e.b, e.j), slope: now.slopes[e.at], product: grad(e.b, e.j) * now.slopes[e.at] }))
      .sort((p, q) => Math.abs(q.product) - Math.abs(p.product))
  }
  function explain(name, i) {
    const title = label(name, i), v = fmt(value(name, i), 4), call = maker(name)
    let forth = `${title} = ${v}`
    if (call && small) {
      const ins = into[key(name, i)] ?? [], num = e => fmt(value(e.a, e.i), 4)
      if (call.op === 'linear') {
        const [x, w, b] = call.inputs.map(a => ins.filter(e => e.a === a))
        forth = `${title} = ${sum(x.map((e, k) => `${num(e)}·${num(w[k])}`))} + ${num(b[0])} = ${v}`
      } else {
        const each = [...new Map(ins.map(e => [key(e.a, e.i), num(e)])).values()]
        forth = `${title} = ${call.op}(${each.slice(0, 6).join(', ')}${each.length > 6 ? ', …' : ''}) = ${v}`
      }
    }
    if (!(name in now.grads)) return [forth, `${title} has no gradient`]
    const g = fmt(grad(name, i), 4), heard = small ? messagesOf(name, i) : largeMessages(name, i)
    if (!heard.length) return [forth, `∂loss/∂${title} = ${g}`]
    return [forth, `∂loss/∂${title} = ${sum(heard.map(m => `${fmt(m.g, 4)}·${fmt(m.slope, 4)}`))}${heard.length > 1 ? ' = ' + sum(heard.map(m => fmt(m.product, 4))) : ''} = ${g}`]
  }
  function pathsOf(name, i, up = 2000) {
    const found = [], todo = [[[name, i], []]]
    while (todo.length) {
      const [[a, k], road] = todo.pop()
      if (a === end) found.push(road)
      if (found.length > up) return null
      for (const e of from[key(a, k)] ?? []) todo.push([[e.b, e.j], [...road, e]])
    }
    return found.map(road => ({ road, product: road.reduce((p, e) => p * now.slopes[e.at], 1) })).sort((p, q) => Math.abs(q.product) - Math.abs(p.product))
  }

  function largeMessages(name, i) {                          // a linear operation of a large trace, under the right rules
    const call = calls.find(c => c.op === 'linear' && c.inputs.includes(name)); if (!call || state.fault) return []
    const [x, w, b] = call.inputs, g = now.grads[call.out].data, [nin, nout] = shapeOf(w), m = g.length / nout, heard = []
    const add = (row, col, slope) => heard.push({ sender: label(call.out, row * nout + col), g: g[row * nout + col], slope, product: g[row * nout + col] * slope })
    if (name === x) for (let c = 0; c < nout; c++) add(Math.floor(i / nin), c, value(w, (i % nin) * nout + c))
    else for (let k = 0; k < m; k++) add(k, i % nout, name === b ? 1 : value(x, k * nin + Math.floor(i / nout)))
    return heard.sort((p, q) => Math.abs(q.product) - Math.abs(p.product))
  }

  // ---------------------------------------------------------------- the drawing: places of all numbers
  const linears = new Set(calls.filter(c => c.op === 'linear' && c.inputs.length === 3 && shapeOf(c.inputs[1]).length === 2).map(c => c.inputs[1]))
  const biases = new Map(calls.filter(c => linears.has(c.inputs[1])).map(c => [c.inputs[2], c]))
  const nodeNames = names.filter(k => !linears.has(k) && !biases.has(k) && !given(k) && (k in first.grads))
  const column = {}
  for (const c of calls) column[c.out] = 1 + Math.max(-1, ...c.inputs.filter(a => a && column[a] != null).map(a => column[a]), ...c.inputs.filter(a => a && isLeaf(a) && nodeNames.includes(a)).map(() => 0))
  for (const k of nodeNames) if (isLeaf(k)) column[k] = Math.max(0, Math.min(...calls.filter(c => c.inputs.includes(k)).map(c => column[c.out])) - 1)
  const groups = {}
  for (const k of nodeNames) (groups[column[k]] ??= []).push(k)
  for (const g of Object.values(groups)) g.sort((a, b) => isLeaf(a) - isLeaf(b))

  function layout() {
    const wide = base ? 118 : 84, chip = base ? 104 : state.check ? 74 : 66, line = 15, lines = 2 + (state.check ? 1 : 0), high = 10 + line * lines, chipHigh = 4 + 13 * lines
    const tall = high + 18 + (biases.size ? chipHigh + 12 : 14)
    const far = Math.max(.3, Math.min(.78, 1 - (chipHigh + 3) / tall))   // chips stay this side of where the lines come together
    const at = new Map(), last = Math.max(...Object.keys(groups).map(Number))
    const count = c => (groups[c] ?? []).reduce((s, k) => s + rowsOf(k, state.example).length, 0)
    const rows = Math.max(...Object.keys(groups).map(count)), middle = 26 + (rows * tall) / 2
    let x = 8
    for (let c = 0; c <= last; c++) {
      const total = count(c)
      let r = 0
      for (const k of groups[c] ?? []) for (const i of rowsOf(k, state.example)) { at.set(key(k, i), { name: k, i, x: x + wide / 2, y: middle + (r - (total - 1) / 2) * tall, w: wide, h: high, node: true }); r++ }
      const call = calls.find(c2 => linears.has(c2.inputs[1]) && column[c2.inputs[0]] === c)
      x += wide + (call ? Math.max(base ? 160 : 116, 22 + chip / 2 + 40, ((shapeOf(call.inputs[1])[1] - 1) * (chip + 6) + 22 + chip / 2) / far) : 78)
    }
    const chips = new Map()
    for (const c of calls) if (linears.has(c.inputs[1])) {
      const [nin, nout] = shapeOf(c.inputs[1])
      const xs = rowsOf(c.inputs[0], state.example), zs = rowsOf(c.out, state.example)
      if (xs.length !== nin || zs.length !== nout) continue
      for (let j = 0; j < nout; j++) for (let i = 0; i < nin; i++) {
        const p = at.get(key(c.inputs[0], xs[i])), q = at.get(key(c.out, zs[j])); if (!p || !q) continue
        const a = p.x + p.w / 2, b = q.x - q.w / 2, near = a + 22 + chip / 2, px = nout > 1 ? near + j * (far * (b - a) + a - near) / (nout - 1) : near + .2 * (b - near - chip), s = (px - a) / (b - a)
        chips.set(key(c.inputs[1], i * nout + j), { name: c.inputs[1], i: i * nout + j, x: px, y: p.y + s * (q.y - p.y), w: chip, h: chipHigh, from: key(c.inputs[0], xs[i]), to: key(c.out, zs[j]) })
      }
      zs.forEach((z, j) => { const q = at.get(key(c.out, z)); if (q && sizeOf(c.inputs[2]) === nout) chips.set(key(c.inputs[2], j), { name: c.inputs[2], i: j, x: q.x, y: q.y + q.h / 2 + 11 + chipHigh / 2, w: chip, h: chipHigh, below: key(c.out, z) }) })
    }
    const boxes = [...at.values(), ...chips.values()], top = Math.min(...boxes.map(b => b.y - b.h / 2)) - 22, bottom = Math.max(...boxes.map(b => b.y + b.h / 2)) + 18
    return { at, chips, width: x - 78 + 8, top, height: bottom - top, high, chipHigh }
  }

  const short = v => Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5 ? fmt(v, 2) : fmt(v, 3)
  const aria = (name, i) => `${label(name, i)}, value ${seen(name) ? fmt(value(name, i), 4) : 'not yet computed'}${gradSeen(name) ? `, gradient ${fmt(grad(name, i), 4)}` : ''}${state.check && gradSeen(name) && isWrong(name, i) ? ', wrong' : ''}`
  let plan = null, scroll = null

  function texts(box, size, gap) {
    const { name, i } = box, out = []
    const row = (what, cls, mark, v) => {
      const changed = differs(what, name, i), old = changed ? short(base[what][name].data[i]) + ' → ' : ''
      out.push([`${mark}${old}${short(v)}`, `${cls}${base ? (changed ? ' bpm-new' : ' bpm-same') : ''}`])
    }
    if (seen(name)) row('values', 'bpm-value', '', value(name, i)); else out.push(['·', 'bpm-none'])
    if (gradSeen(name)) row('grads', 'bpm-grad', '', grad(name, i)); else out.push(['', ''])
    if (state.check) out.push(gradSeen(name) && nudge(name, i) !== undefined ? [`${isWrong(name, i) ? '✗' : '✓'} ${short(nudge(name, i))}`, isWrong(name, i) ? 'bpm-bad' : 'bpm-good'] : ['', ''])
    const top = box.y - (out.length - 1) * gap / 2 + size * .36
    return out.map(([t, c], k) => svg('text', { x: box.x, y: top + k * gap, class: c, 'text-anchor': 'middle', 'font-size': t.length > 11 ? size - 2 : size }, t))
  }

  function draw() {
    plan = layout()
    const s = steps[state.walk], back = s.phase === 'backward', picked = state.picked && key(...state.picked)
    const paths = picked ? pathsOf(...state.picked) : null, onPath = new Set(paths?.[state.path]?.road.map(e => e.at) ?? [])
    const boxOf = k => plan.at.get(k)
    const under = [], over = [], drawn = edges.filter(e => boxOf(key(e.a, e.i)) && boxOf(key(e.b, e.j))), leaving = {}, coming = {}
    for (const e of drawn) { leaving[key(e.a, e.i)] = (leaving[key(e.a, e.i)] ?? 0) + 1; coming[key(e.b, e.j)] = (coming[key(e.b, e.j)] ?? 0) + 1 }
    for (const e of drawn) {
      const p = boxOf(key(e.a, e.i)), q = boxOf(key(e.b, e.j)); if (!p || !q) continue
      const lit = onPath.has(e.at), active = e.call === s.call && (!back ? true : s.array === e.a || (linears.has(s.array) || biases.has(s.array)))
      const touched = picked === key(e.a, e.i) && gradSeen(e.b)
      const a = p.x + p.w / 2, b = q.x - q.w / 2, slope = now.slopes[e.at]
      const known = seen(e.b)
      under.push(svg('path', { d: `M${a} ${p.y}L${b} ${q.y}`, class: `bpm-edge${lit ? ' bpm-lit' : active ? (back ? ' bpm-backing' : ' bpm-going') : touched ? ' bpm-touched' : ''}${slope < 0 ? ' bpm-minus' : ''}${known ? '' : ' bpm-later'}` }))
      const chipped = [...(into[key(e.b, e.j)] ?? [])].some(f => linears.has(f.a))
      const alone = leaving[key(e.a, e.i)] === 1 && (coming[key(e.b, e.j)] === 1 || (e.b === end && coming[key(e.b, e.j)] <= 4))
      if (!chipped && known && (alone || touched || lit)) {
        const t = alone ? .5 : .36, mx = a + t * (b - a), my = p.y + t * (q.y - p.y), old = base && base.slopes[e.at] !== slope
        over.push(svg('text', { x: mx, y: my - 6, class: `bpm-slope${base ? (old ? ' bpm-new' : ' bpm-same') : ''}`, 'text-anchor': 'middle' }, `×${fmt(slope, 3)}`))
        if (gradSeen(e.a) && e.b in now.grads) over.push(svg('text', { x: mx, y: my + 14, class: 'bpm-flow', 'text-anchor': 'middle' }, `← ${fmt(grad(e.b, e.j) * slope, 3)}`))
      } else if (chipped && known && (touched || (active && back && s.array === e.a)) && gradSeen(e.a)) {
        const c = [...plan.chips.values()].find(c => c.from === key(e.a, e.i) && c.to === key(e.b, e.j))
        if (c) over.push(svg('text', { x: c.x, y: c.y + c.h / 2 + 12, class: 'bpm-flow', 'text-anchor': 'middle' }, `← ${fmt(grad(e.b, e.j) * slope, 3)}`))
      }
    }
    const chosen = state.picked && (plan.at.has(picked) || plan.chips.has(picked)) ? picked : [...plan.at.keys()][0]
    const group = (box, chip) => {
      const k = key(box.name, box.i), fresh = s.array === box.name, bad = state.check && gradSeen(box.name) && isWrong(box.name, box.i)
      const g = svg('g', { class: `bpm-${chip ? 'chip' : 'node'}${picked === k ? ' bpm-picked' : ''}${fresh ? (back ? ' bpm-fresh-back' : ' bpm-fresh') : ''}${bad ? ' bpm-wrong' : ''}${isLeaf(box.name) ? ' bpm-leaf' : ''}`,
        role: 'button', tabindex: k === chosen ? 0 : -1, 'aria-label': aria(box.name, box.i), 'aria-pressed': String(picked === k), 'data-number': label(box.name, box.i), 'data-value': seen(box.name) ? value(box.name, box.i) : null, 'data-grad': gradSeen(box.name) ? grad(box.name, box.i) : null },
      svg('rect', { x: box.x - box.w / 2, y: box.y - box.h / 2, width: box.w, height: box.h, rx: chip ? 5 : 8 }),
      chip ? null : svg('text', { x: box.x, y: box.y - box.h / 2 - 5, class: 'bpm-name', 'text-anchor': 'middle' }, brief(box.name, box.i)),
      texts(box, chip ? 11.5 : 13, chip ? 13 : 15))
      g.addEventListener('click', () => pick(box.name, box.i, true))
      g.addEventListener('keydown', e => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); pick(box.name, box.i, true) } })
      return g
    }
    for (const c of plan.chips.values()) if (c.below) under.push(svg('path', { d: `M${c.x} ${c.y - c.h / 2}L${c.x} ${boxOf(c.below).y + boxOf(c.below).h / 2}`, class: 'bpm-edge' }))
    const picture = svg('svg', { viewBox: `0 ${plan.top} ${plan.width} ${plan.height}`, width: plan.width, height: plan.height, role: 'group', 'aria-label': 'all numbers of one example; arrow keys move between them' },
      under, [...plan.at.values()].map(b => group(b, false)), [...plan.chips.values()].map(b => group(b, true)), over)
    picture.style.minWidth = Math.round(plan.width * (base ? .7 : .78)) + 'px'
    picture.addEventListener('keydown', steer)
    const focused = view.contains(document.activeElement) ? document.activeElement.dataset?.number : null
    if (!scroll) { scroll = el('div', { class: 'bpm-scroll' }); view.replaceChildren(scroll) }
    const where = scroll.scrollLeft
    scroll.replaceChildren(picture); scroll.scrollLeft = where
    if (focused) [...picture.querySelectorAll('[data-number]')].find(g => g.dataset.number === focused)?.focus({ preventScroll: true })
  }

  function follow() {                                        // where the drawing is wider than the page: keep the operation in sight
    if (!scroll || scroll.scrollWidth <= scroll.clientWidth) return
    const s = steps[state.walk], box = [...plan.at.values(), ...plan.chips.values()].find(b => b.name === s.array); if (!box) return
    scroll.scrollLeft = box.x * scroll.scrollWidth / plan.width - scroll.clientWidth / 2
  }

  function steer(e) {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key]; if (!way) return
    e.preventDefault()
    const all = [...plan.at.values(), ...plan.chips.values()], here = all.find(b => label(b.name, b.i) === document.activeElement?.dataset?.number); if (!here) return
    let best = null, far = Infinity
    for (const b of all) {
      const dx = b.x - here.x, dy = b.y - here.y, on = dx * way[0] + dy * way[1], off = Math.abs(dx * way[1]) + Math.abs(dy * way[0])
      if (on > 2 && on + 2.2 * off < far) { far = on + 2.2 * off; best = b }
    }
    if (best) pick(best.name, best.i, true)
  }

  function pick(name, i, focus) {
    state.picked = [name, i]; state.path = -1
    paint()
    if (focus && small) { const g = [...view.querySelectorAll('[data-number]')].find(g => g.dataset.number === label(name, i)); g?.focus({ preventScroll: true }); g?.scrollIntoView?.({ block: 'nearest', inline: 'nearest' }) }
  }
  function movePick() {                                      // another example: the same place in its row
    if (!state.picked || !batched(state.picked[0])) return
    const [name, i] = state.picked, w = sizeOf(name) / n
    state.picked = [name, state.example * w + i % w]; state.path = -1
  }

  // ---------------------------------------------------------------- a large trace: maps of values and gradients
  const maps = []
  function flat(shape) { const cols = shape.length ? shape.at(-1) : 1; return [shape.length > 1 ? shape.slice(0, -1).reduce((a, b) => a * b, 1) : 1, cols] }
  function drawMaps() {
    if (!maps.length) {
      const shelf = el('div', { class: 'bpm-maps' })
      for (const name of names.filter(k => k in first.grads && sizeOf(k) > 1)) {
        const [rows, cols] = flat(shapeOf(name)), figure = el('figure', { class: 'bpm-map' }, el('figcaption', {}, el('b', {}, name), ` ${shapeOf(name).join(' × ')}`))
        const pair = ['values', 'grads'].map(what => {
          const canvas = el('canvas', { tabindex: 0, role: 'img', 'data-map': `${name} ${what}` }), note = el('span', { class: `bpm-range bpm-${what}` })
          figure.append(el('div', { class: 'bpm-half' }, canvas, note))
          const side = Math.max(1, Math.min(9, Math.floor(170 / Math.max(rows, cols)), Math.floor(118 / rows) || 1))
          const W = Math.min(170, cols * side), H = Math.min(118, Math.max(rows * side, 8))
          Object.assign(canvas.style, { width: W + 'px', height: H + 'px' })
          canvas.addEventListener('click', e => { const b = canvas.getBoundingClientRect(); pick(name, Math.min(rows - 1, Math.floor((e.clientY - b.top) / b.height * rows)) * cols + Math.min(cols - 1, Math.floor((e.clientX - b.left) / b.width * cols))) })
          canvas.addEventListener('keydown', e => {
            const d = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key]; if (!d) return
            e.preventDefault()
            const i = state.picked?.[0] === name ? state.picked[1] : 0, r = Math.max(0, Math.min(rows - 1, Math.floor(i / cols) + d[0])), c = Math.max(0, Math.min(cols - 1, i % cols + d[1]))
            pick(name, r * cols + c)
          })
          return { what, canvas, note }
        })
        shelf.append(figure); maps.push({ name, rows, cols, figure, pair })
      }
      view.append(shelf)
    }
    const s = steps[state.walk]
    for (const m of maps) {
      m.figure.classList.toggle('bpm-fresh', s.array === m.name && s.phase !== 'backward'); m.figure.classList.toggle('bpm-fresh-back', s.array === m.name && s.phase === 'backward')
      m.figure.classList.toggle('bpm-wrong', now.wrong.includes(m.name))
      for (const { what, canvas, note } of m.pair) {
        const there = what === 'values' ? seen(m.name) : gradSeen(m.name), data = now[what][m.name].data
        let top = 0; for (const v of data) if (Number.isFinite(v) && Math.abs(v) > top) top = Math.abs(v)
        const dpr = Math.min(3, window.devicePixelRatio || 1), W = parseFloat(canvas.style.width), H = parseFloat(canvas.style.height)
        canvas.width = Math.round(W * dpr); canvas.height = Math.round(H * dpr)
        const ctx = canvas.getContext('2d'); ctx.imageSmoothingEnabled = false
        if (there) {
          ctx.drawImage(paintCells(data, m.rows, m.cols, signed, -(top || 1), top || 1, false), 0, 0, canvas.width, canvas.height)
          if (state.picked?.[0] === m.name) { const i = state.picked[1], a = canvas.width / m.cols, b = canvas.height / m.rows; for (const [ink, wide] of [['#fff', 4 * dpr], ['#000', 1.6 * dpr]]) { ctx.strokeStyle = ink; ctx.lineWidth = wide; ctx.strokeRect((i % m.cols) * a - 2, Math.floor(i / m.cols) * b - 2, Math.max(7, a + 4), Math.max(7, b + 4)) } }
        } else { ctx.fillStyle = colours.raised; ctx.fillRect(0, 0, canvas.width, canvas.height) }
        note.textContent = there ? `${what === 'values' ? 'values' : 'gradients'} ± ${fmt(top, 2)}` : 'not yet'
        const i = state.picked?.[0] === m.name ? state.picked[1] : null
        canvas.setAttribute('aria-label', `${what === 'values' ? 'values' : 'gradients'} of ${m.name}, ${m.rows} by ${m.cols}, up to ${there ? fmt(top, 2) : 'not yet computed'}; arrow keys move over it${i !== null && there ? `; ${label(m.name, i)} is ${fmt(data[i], 4)}` : ''}`)
      }
    }
  }

  // ---------------------------------------------------------------- words beside the drawing
  function drawCard() {
    const s = steps[state.walk], call = calls[s.call]
    const shapes = s.shapes.split(' → ')
    card.replaceChildren(el('p', { class: `bpm-what bpm-${s.phase}` }, el('b', {}, s.name), s.phase === 'backward' ? ` makes the gradient of ${s.array}` : ` makes ${s.array}`, call.layer ? el('span', { class: 'bpm-layer' }, `, in ${call.layer}`) : null),
      el('p', { class: 'bpm-code' }, el('code', {}, s.code), el('span', { class: 'bpm-where' }, ` ${s.where}`)),
      el('p', { class: 'bpm-words' }, s.words.replaceAll('`', '')),
      el('p', { class: 'bpm-shapes' }, el('code', {}, shapes[0]), ' → ', el('code', {}, shapes[1]), s.summed ? el('span', { class: 'bpm-summed' }, `summed ${s.summed}`) : null))
    marks.forEach((m, k) => { k === state.walk ? m.setAttribute('aria-current', 'step') : m.removeAttribute('aria-current'); m.tabIndex = k === state.walk ? 0 : -1; m.classList.toggle('bpm-past', k <= state.walk) })
  }

  function drawJudge() {
    const all = Object.keys(now.grads).length, bad = now.wrong
    judge.className = `bpm-judge ${bad.length ? 'bpm-red' : 'bpm-green'}`
    judge.replaceChildren(el('b', {}, bad.length ? '✗ ' : '✓ '), bad.length
      ? `Nudging disagrees with ${bad.length} of ${all} gradients: ${bad.slice(0, 8).join(', ')}${bad.length > 8 ? ', …' : ''}. The first wrong one comes from ` : `Nudging agrees with the gradients of all ${all} arrays.`,
      bad.length ? el('code', {}, now.rule) : '', bad.length ? '.' : '')
  }

  const pair = (what, name, i, cls) => {
    const v = now[what][name].data[i], changed = differs(what, name, i)
    return el('span', { class: `${cls}${base && !changed ? ' bpm-same' : ''}` }, changed ? `${fmt(base[what][name].data[i], 4)} → ` : '', el('b', {}, fmt(v, 4)))
  }
  const factor = e => { const v = now.slopes[e.at], old = base?.slopes[e.at]; return base && !Object.is(old, v) ? el('span', { class: 'bpm-new' }, `${fmt(old, 3)} → ${fmt(v, 3)}`) : el('span', { class: base ? 'bpm-same' : '' }, fmt(v, 3)) }

  function drawNumber() {
    if (!state.picked) { number.replaceChildren(el('h3', {}, 'Pick a number'), el('p', {}, small ? 'Click any number in the drawing, or move through it with the arrow keys: here it says how the number came about, and which paths its gradient is made of.' : 'Click a map, or move over it with the arrow keys, to read its numbers.')); return }
    const [name, i] = state.picked, has = name in now.grads, parts = []
    parts.push(el('h3', {}, label(name, i), el('small', {}, ` ${{ weight: 'a weight', input: 'an input', given: 'given' }[T.kinds[name]] ?? (name === end ? 'the loss' : `made by ${maker(name)?.op}`)}`)))
    const facts = el('dl', { class: 'bpm-facts' }, el('dt', {}, 'value'), el('dd', { class: 'bpm-value', 'data-fact': 'value' }, seen(name) ? pair('values', name, i, '') : '·'))
    if (has) facts.append(el('dt', {}, 'gradient'), el('dd', { class: 'bpm-grad', 'data-fact': 'gradient' }, gradSeen(name) ? pair('grads', name, i, '') : '·'))
    const t = nudge(name, i)
    if (has && gradSeen(name) && t !== undefined && !Number.isNaN(t)) facts.append(el('dt', {}, 'by nudging'), el('dd', { class: isWrong(name, i) ? 'bpm-bad' : 'bpm-good', 'data-fact': 'nudged' }, `${isWrong(name, i) ? '✗' : '✓'} ${fmt(t, 4)}`))
    parts.push(facts)
    if (kernel && isLeaf(name) && (T.kinds[name] !== 'given')) {
      const id = newId('edit'), box = el('input', { type: 'number', id, step: 'any', value: String(value(name, i)), 'data-edit': label(name, i) })
      const set = () => { const v = Number(box.value); if (box.value !== '' && Number.isFinite(v)) { state.edits = [...state.edits.filter(e => e[0] !== name || e[1] !== i), [name, i, v]]; look() } else alarm(`${label(name, i)}: a finite number is needed`) }
      box.addEventListener('keydown', e => { if (e.key === 'Enter') { e.preventDefault(); set() } })
      parts.push(el('div', { class: 'bpm-edit' }, el('label', { for: id }, `set ${label(name, i)} to`), box, button('Set', set)))
    }
    const [forth, back] = explain(name, i)
    if (seen(name)) parts.push(el('p', { class: 'bpm-line bpm-forth' }, forth))
    if (has && gradSeen(name)) {
      parts.push(el('p', { class: 'bpm-line bpm-back' }, back))
      const paths = small ? pathsOf(name, i) : null
      if (paths && paths.length && name !== end) {
        const total = paths.reduce((s, p) => s + p.product, 0), off = Math.abs(total - grad(name, i)) > 1e-4 * Math.abs(total) + 1e-9, show = paths.slice(0, 12)
        parts.push(el('h4', {}, paths.length === 1 ? 'One path to the loss' : `${paths.length} paths to the loss, the largest first; their sum is ${fmt(total, 4)}${off ? ', which is not the gradient: a rule is at work that no longer multiplies slopes' : ''}`))
        const top = Math.max(...paths.map(p => Math.abs(p.product))) || 1
        parts.push(el('ul', { class: 'bpm-paths' }, show.map((p, k) => {
          const b = button('', () => { state.path = state.path === k ? -1 : k; paint() }, { class: 'bpm-path', 'aria-pressed': String(state.path === k) })
          const bar = el('i', { class: `bpm-bar${p.product < 0 ? ' bpm-down' : ''}`, 'aria-hidden': 'true' }); bar.style.width = `${Math.max(1, 46 * Math.abs(p.product) / top)}px`
          b.append(el('span', { class: 'bpm-product' }, fmt(p.product, 3)), bar, el('span', { class: 'bpm-road' }, p.road.flatMap((e, m) => [m ? ' → ' : '', label(e.b, e.j)]).join('')), el('span', { class: 'bpm-factors' }, p.road.flatMap((e, m) => m ? [' · ', factor(e)] : [factor(e)])))
          return el('li', {}, b)
        }), paths.length > show.length ? el('li', { class: 'bpm-more' }, `and ${paths.length - show.length} smaller ones, together ${fmt(paths.slice(12).reduce((s, p) => s + p.product, 0), 3)}`) : []))
      } else if (!small) {
        const heard = largeMessages(name, i)
        if (heard.length) parts.push(el('h4', {}, `${heard.length} messages meet here, the largest first`), el('ul', { class: 'bpm-paths' }, heard.slice(0, 8).map(m => el('li', { class: 'bpm-heard-one' }, el('b', {}, fmt(m.product, 3)), ` = ${fmt(m.g, 3)} · ${fmt(m.slope, 3)} from ${m.sender}`)), heard.length > 8 ? el('li', { class: 'bpm-more' }, `and ${heard.length - 8} smaller ones, together ${fmt(heard.slice(8).reduce((s, m) => s + m.product, 0), 3)}`) : []))
      } else if (small && !paths) parts.push(el('p', {}, 'More than 2,000 paths lead from here to the loss.'))
    }
    number.replaceChildren(...parts)
  }

  function drawChart() {
    if (!chart) return
    const cut = ys => { const k = ys.map(worded).findIndex(v => !Number.isFinite(v)); return ys.map(worded).slice(0, k < 0 ? ys.length : k) }
    const right = cut(scene.losses), lines = { right: [[...right.keys()], right] }
    if (losses !== scene.losses) { const ys = cut(losses); lines[state.edits.length ? 'edited' : 'wrong'] = [[...ys.keys()], ys] }
    const top = Math.max(...right) * 1.6, high = Math.min(Math.max(...Object.values(lines).flatMap(l => l[1])) * 1.05, Math.max(top, right[0] * 3))
    const ends = Object.entries(lines).map(([k, l]) => `${k} rules end at ${fmt(l[1].at(-1), 3)}`).join(', ')
    chart.draw(lines, { at: state.step, xlim: [0, scene.n_steps], ylim: [0, high || 1], colours: { right: 'forward', wrong: 'gradient', edited: 'update' }, alt: `Loss over ${scene.n_steps} training steps: ${ends}.` })
    root.dataset.ends = JSON.stringify(Object.fromEntries(Object.entries(lines).map(([k, l]) => [k, l[1].at(-1)])))
  }

  function paint() {
    small ? draw() : drawMaps()
    drawCard(); drawJudge(); drawNumber(); drawChart()
    const s = steps[state.walk]
    root.dataset.walk = state.walk; root.dataset.step = state.step; root.dataset.fault = state.fault; root.dataset.wrong = now.wrong.join(' ')
    root.dataset.paints = Number(root.dataset.paints ?? 0) + 1
    speak(`Operation ${state.walk} of ${steps.length - 1}, ${s.phase}: ${s.name} makes ${s.phase === 'backward' ? 'the gradient of ' : ''}${s.array}.` + (state.picked ? ` ${aria(...state.picked)}.` : '') + (now.wrong.length ? ` ${now.wrong.length} gradients are wrong.` : ''))
  }
  const weight = names.find(k => T.kinds[k] === 'weight')     // to begin with: the weight that matters most, and an example that uses it
  if (weight && small) {
    const g = Array.from(now.grads[weight].data, Math.abs), most = g.indexOf(Math.max(...g))
    state.picked = [weight, Math.max(0, most)]
    const busiest = messagesOf(...state.picked)[0]?.e, row = busiest ? exampleOf(busiest.b, busiest.j) : null
    if (row && kn.example) { state.example = row; kn.example.set(row) }
  }
  ready = true
  film.length(steps.length)
  film.go(steps.length - 1)
  return { alarm, stop() { colours.stop?.(); film.stop(); chart?.stop(); speak.stop?.() } }
}

export default {
  render({ model, el: root }) {
    let shown = null
    const kernel = { onanswer: null, ask(request) { model.set('asked', request); model.save_changes() } }
    function start() { shown?.stop(); shown = microscope(root, JSON.parse(model.get('scene')), kernel); error() }
    const error = () => { shown.alarm(model.get('error')); if (model.get('error')) delete root.dataset.busy }
    const answer = () => { if (model.get('answer')) kernel.onanswer?.(JSON.parse(model.get('answer'))) }
    model.on('change:scene', start); model.on('change:answer', answer); model.on('change:error', error)
    start()
    return () => { model.off('change:scene', start); model.off('change:answer', answer); model.off('change:error', error); shown?.stop() }
  },
}
