/* The front end of studio.tune(): knobs, pictures and buttons around a run that the kernel trains.
   Every message to the kernel is { do, with, id }; every frame that comes back says which of them it has heard.
   A frame is confirmed when it arrives, and painted when the screen is ready: the newest one wins. */

const NUMBERS = [['train_loss', 'training loss', 'forward'], ['val_loss', 'validation loss', 'gradient'], ['train_accuracy', 'training accuracy', 'forward'], ['val_accuracy', 'validation accuracy', 'gradient']]
const number_of = v => v == null ? NaN : v
const percent = v => v == null ? 'NaN' : `${(100 * v).toFixed(v > .995 && v < 1 ? 1 : 0)} %`
const spaced = text => String(text).replaceAll('_', ' ')
const lerp = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t)

// what the net answers in the plane: a smooth map of classes, paler where it is less sure, and the points on top
function planePicture(container) {
  let seen = null, points = null, layer = null
  const options = { title: 'what the net answers', alt: 'what the net answers in each place', height: w => w }
  const s = surface(container, options, (ctx, w, h, colours, dpr) => {
    if (!seen) return
    const { answer, sure, box, side } = seen, field = new OffscreenCanvas(side, side), f = field.getContext('2d'), image = f.createImageData(side, side), px = image.data
    const paper = rgb(colours.paper), inks = colours.palette.map(rgb)
    for (let r = 0; r < side; r++) for (let c = 0; c < side; c++) {
      const i = r * side + c, to = 4 * ((side - 1 - r) * side + c), t = (colours.dark ? .1 : .05) + (colours.dark ? .42 : .36) * Math.sqrt(sure[i] / 255)
      const [R, G, B] = lerp(paper, inks[answer[i] % 7], t)
      px[to] = R; px[to + 1] = G; px[to + 2] = B; px[to + 3] = 255
    }
    f.putImageData(image, 0, 0)
    ctx.save()
    ctx.beginPath(); ctx.roundRect(.5, .5, w - 1, h - 1, 5); ctx.clip()
    ctx.imageSmoothingEnabled = true; ctx.imageSmoothingQuality = 'high'
    ctx.drawImage(field, 0, 0, w, h)
    const key = [points, w, h, dpr, colours.dark, box.join()].map(String).join('|') + (points?.stamp ?? '')
    if (layer?.key !== key) {
      const c = new OffscreenCanvas(Math.round(w * dpr), Math.round(h * dpr)), p = c.getContext('2d')
      p.setTransform(dpr, 0, 0, dpr, 0, 0)
      const x = v => (v - box[0]) / (box[1] - box[0]) * w, y = v => h - (v - box[2]) / (box[3] - box[2]) * h, n = points.t.length, size = n > 500 ? 2.7 : n > 150 ? 3.3 : 4
      for (const filled of [false, true]) for (let i = 0; i < n; i++) {
        if ((i < points.n_train) !== filled) continue
        const colour = colours.palette[points.t[i] % 7], dark = mix(colour, colours.ink, colours.dark ? 0 : .25)
        if (filled) mark(p, x(points.xy[2 * i]), y(points.xy[2 * i + 1]), points.t[i] % 4, dark, colours.paper, size)
        else { p.globalAlpha = .8; mark(p, x(points.xy[2 * i]), y(points.xy[2 * i + 1]), points.t[i] % 4, colours.paper, dark, size * .82); p.globalAlpha = 1 }
      }
      layer = { key, canvas: c }
    }
    ctx.drawImage(layer.canvas, 0, 0, w, h)
    ctx.restore()
    ctx.strokeStyle = colours.rule; ctx.lineWidth = 1; ctx.beginPath(); ctx.roundRect(.5, .5, w - 1, h - 1, 5); ctx.stroke()
  })
  s.figure.append(el('p', { class: 'bp-key' }, 'Filled points are learned from, open ones validate. Pale: the net is not sure.'))
  return { root: s.figure, stop: s.stop, scene(head, [xy, t]) { points = { xy: floats(xy), t: bytes(t), n_train: head.n_train, stamp: Math.random() } },
           draw(head, [answer, sure]) {
             if (!points) return
             seen = { answer: bytes(answer), sure: bytes(sure), box: head.box, side: Math.round(Math.sqrt(answer.byteLength)) }
             s.describe(`what the net answers in each place, after ${head.step} steps: ${percent(head.val_accuracy)} of the validation points are right`)
             s.repaint()
           } }
}

// the digits that the net gets wrong
function mistakesPicture(container) {
  let seen = null, n_val = 0
  const cell = 44
  const s = surface(container, { title: 'digits that it gets wrong', alt: 'digits that the net gets wrong', height: w => seen ? Math.max(cell + 18, Math.ceil(seen.truth.length / Math.max(1, Math.floor(w / (cell + 6)))) * (cell + 20)) : w }, (ctx, w, h, colours) => {
    if (!seen) return
    const across = Math.max(1, Math.floor(w / (cell + 6))), paper = rgb(colours.paper), ink = rgb(colours.ink), tile = new OffscreenCanvas(8, 8), t = tile.getContext('2d')
    if (!seen.truth.length) { ctx.fillStyle = colours.soft; ctx.fillText('none', 2, 14) }
    seen.truth.forEach((truth, k) => {
      const image = t.createImageData(8, 8)
      for (let i = 0; i < 64; i++) { const [R, G, B] = lerp(paper, ink, seen.image[64 * k + i] / 255); image.data.set([R, G, B, 255], 4 * i) }
      t.putImageData(image, 0, 0)
      const x = (k % across) * (cell + 6), y = Math.floor(k / across) * (cell + 20)
      ctx.imageSmoothingEnabled = false
      ctx.drawImage(tile, x, y, cell, cell)
      ctx.strokeStyle = colours.grid; ctx.strokeRect(x + .5, y + .5, cell - 1, cell - 1)
      ctx.textBaseline = 'top'; ctx.textAlign = 'center'; ctx.fillStyle = colours.ink
      ctx.fillText(`${truth} → `, x + cell / 2 - 5, y + cell + 3)
      ctx.fillStyle = colours.gradient
      ctx.fillText(seen.answer[k], x + cell / 2 + 12, y + cell + 3)
    })
  })
  return { root: s.figure, stop: s.stop, scene(head) { n_val = head.n_val },
           draw(head, [image]) {
             seen = { truth: head.truth, answer: head.answer, image: bytes(image) }
             s.caption(`${head.count} of ${n_val} digits are read wrong: the truth → the answer`)
             s.describe(`${head.count} of ${n_val} validation digits are read wrong; ${head.truth.slice(0, 5).map((t, i) => `a ${t} as ${head.answer[i]}`).join(', ')}`)
             s.repaint()
           } }
}

// a table of truth and answer, for data of any other kind
function confusionPicture(container) {
  let k = 2
  const t = table(container, { title: 'truth (rows) and answer (columns)' })
  return { root: t.root.parentElement, stop() {}, scene(head) { k = head.k },
           draw(head, [counts]) { const m = floats(counts); t.draw(['', ...Array.from({ length: k }, (_, j) => String(j))], Array.from({ length: k }, (_, i) => [String(i), ...m.slice(i * k, i * k + k)])) } }
}
const views = { plane: planePicture, mistakes: mistakesPicture, confusion: confusionPicture }

export default {
  render({ model, el: root }) {
    const spec = model.get('spec'), started = performance.now(), undo = []
    let id = 0, head = null, scene = null, pending = null, painted = 0, timer = 0, spoken = -Infinity, asked = -1
    const times = new Map()
    root.bpLatency = []; root.bpFrames = 0
    root.classList.add('bp-studio')
    root.setAttribute('role', 'group'); root.setAttribute('aria-label', 'tuning studio'); root.dataset.lmSuppressShortcuts = 'true'
    const colours = theme(root)
    function send(what, args = {}) { times.set(++id, performance.now()); model.send({ do: what, with: args, id }); root.dataset.asked = id }
    const act = (what, args) => () => send(what, typeof args === 'function' ? args() : args)

    // ---------------------------------------------------------------- stories
    const alarm = alerts(root)
    const story_buttons = Object.entries(spec.presets).map(([name, p]) => button(p.title, act('tell', { name }), { class: 'bp-button bp-story', 'data-story': name }))
    const look = el('p', { class: 'bp-look' }), why = el('p', { class: 'bp-look bp-why' }), cure = button('Try the cure', act('cure'), { class: 'bp-button bp-cure' })
    const told = el('div', { class: 'bp-told', hidden: true }, el('div', {}, look, why), cure)
    root.append(el('div', { class: 'bp-stories', role: 'group', 'aria-label': 'stories' }, el('span', { class: 'bp-lead' }, 'Stories'), story_buttons), told)

    // ---------------------------------------------------------------- transport
    const play = button('Play', () => send(head?.playing ? 'pause' : 'play'), { class: 'bp-button bp-play bp-main', 'data-bp': 'play' })
    const step = button('Step', act('step'), { 'aria-label': 'one step', 'data-bp': 'step' }), epoch = button('Epoch', act('epoch'), { 'aria-label': 'one epoch', 'data-bp': 'epoch' })
    const reset = button('Reset', act('reset'), { 'aria-label': 'reset to the same start', 'data-bp': 'reset' })
    const pace = knob({ name: 'pace', kind: 'choice', label: 'speed', options: spec.speeds, value: spec.speeds[2] }, speed => send('pace', { speed }))
    const bar = el('i'), where = el('span', { class: 'bp-where' }), meter = el('div', { class: 'bp-meter', 'aria-hidden': 'true' }, bar)
    root.append(el('div', { class: 'bp-transport', role: 'group', 'aria-label': 'run' }, el('span', { class: 'bp-buttons' }, play, step, epoch, reset), pace.root, el('div', { class: 'bp-progress' }, where, meter)))

    // ---------------------------------------------------------------- pictures
    const answers = el('div', { class: 'bp-panel bp-answers' }), curves = el('div', { class: 'bp-panel bp-curves' })
    const tiles = NUMBERS.map(([name, label, colour]) => ({ name, node: el('dd', { 'data-number': name }), label, colour }))
    curves.append(el('dl', { class: 'bp-numbers' }, tiles.map(t => el('div', { class: `bp-tile bp-${t.colour}` }, el('dt', {}, t.label), t.node))))
    const loss = Lines(curves, { title: 'loss', alt: 'training and validation loss', x: 'step', ylog: true, height: 232 })
    const right = Lines(curves, { title: 'accuracy', alt: 'training and validation accuracy', x: 'step', ylim: [0, 1.02], height: 160 })
    const guess = knob({ name: 'guess', kind: 'log', low: 1e-3, high: 10, step: 20, value: .3, label: 'guess first: the validation loss will end at' }, () => {})
    const mark_it = button('Mark my guess', () => send('mark', { guess: guess.get() }), { 'data-bp': 'mark' }), unmark = button('Forget it', () => send('mark', { guess: null }), { hidden: true })
    const verdict = el('p', { class: 'bp-verdict', hidden: true, 'data-bp': 'verdict' })
    const bet = el('div', {}, el('div', { class: 'bp-guess' }, guess.root, el('span', { class: 'bp-buttons' }, mark_it, unmark)), verdict), pictures = el('div')
    answers.append(pictures, bet)

    const flow = el('div', { class: 'bp-panel bp-flow' }), layers = el('div', { class: 'bp-layers' })
    const strip = heat(flow, { title: 'gradient at each layer over the run, layer 1 on top', stretch: true, key: true, x: 'from the first step until now', height: () => 56 + 13 * (scene?.layers.length ?? 3) })
    flow.append(el('p', { class: 'bp-key' }, 'Bright: large. Numbers are powers of ten; grey: none arrives at all.'))
    const gauges = [['gradient', 'gradient', { log: true, low: 1e-10, high: 1, colours: 'gradient' }], ['update', 'update / weight', { log: true, low: 1e-10, high: 1, colours: 'update' }], ['spread', 'activation', { colours: 'forward' }], ['dead', 'dead units', { low: 0, high: 1, colours: 'truth' }]]
      .map(([name, title, options]) => { const box = el('div', { class: 'bp-panel', 'data-gauge': name }); layers.append(box); return { name, options, draw: bars(box, { title }).draw } })

    // ---------------------------------------------------------------- knobs
    const knobs = {}, shelves = spec.groups.map((group, i) => {
      const mine = spec.knobs.filter(k => k.group === group).map(k => {
        const options = k.options?.filter(o => k.name !== 'data' || o !== 'own' || spec.own).map(o => ({ value: o, label: typeof o === 'string' ? spaced(o) : fmt(o) }))
        const made = knobs[k.name] = knob({ ...k, help: '', options, step: k.kind === 'range' ? .01 : undefined }, value => send('turn', { name: k.name, value }))
        const tip = el('span', { class: 'bp-heard', id: newId('tip') }, k.help + (k.restarts ? '; starts the run anew' : ''))
        made.root.append(tip); made.root.title = k.help; made.input.setAttribute('aria-describedby', tip.id)
        return made.root
      })
      return el('details', { class: 'bp-group', open: true }, el('summary', {}, group, i < 2 ? el('small', {}, ' starts anew') : el('small', {}, ' acts at once')), el('div', { class: 'bp-shelf' }, mine))
    })
    const desk = el('div', { class: 'bp-desk', role: 'group', 'aria-label': 'knobs' }, shelves)

    // ---------------------------------------------------------------- compare, search, take along
    const keep = button('Keep this run', act('keep'), { 'data-bp': 'keep' }), forget = button('Forget the kept run', act('forget'), { hidden: true }), compared = el('div', { class: 'bp-compared' })
    const comparison = table(compared, { title: 'the kept run, and this one' })
    const kept_box = el('section', { class: 'bp-extra', 'aria-label': 'compare' }, el('p', { class: 'bp-lead' }, 'Keep and compare'), el('p', { class: 'bp-note' }, 'The kept run stays in the chart, and is compared with whatever you try next.'), el('span', { class: 'bp-buttons' }, keep, forget), compared)
    const trials = knob({ name: 'trials', kind: 'whole', low: 2, high: 40, value: 10, label: 'trials for the search' }, () => {})
    const search = button('Let the search try', () => head?.searching ? send('give_up') : send('search', { n_trials: trials.get() }), { 'data-bp': 'search' }), take = button('Start with its settings', act('take'), { hidden: true })
    const contest = el('p', { class: 'bp-verdict', hidden: true, 'data-bp': 'contest' })
    const search_box = el('section', { class: 'bp-extra', 'aria-label': 'you against the search' }, el('p', { class: 'bp-lead' }, 'You against the search'), el('p', { class: 'bp-note' }, 'It turns learning rate, momentum, batch size, activation, depth and width, and each trial may train as long as you.'), trials.root, el('span', { class: 'bp-buttons' }, search, take), contest)
    const program = el('textarea', { readonly: true, rows: 12, spellcheck: 'false', id: newId('program') }), saved = el('textarea', { rows: 4, spellcheck: 'false', id: newId('saved') })
    const copy = button('Copy the program', async () => { program.select(); try { await navigator.clipboard.writeText(program.value); speak('copied') } catch { speak('selected: copy it with your keyboard') } })
    const restore = button('Come again to this', () => send('restore', { text: saved.value }), { 'data-bp': 'restore' })
    const take_box = el('details', { class: 'bp-extra bp-takeaway' }, el('summary', {}, el('span', { class: 'bp-lead' }, 'Take it with you')),
      el('label', { for: program.id }, 'this run as a program, the same to the bit'), program, copy, el('label', { for: saved.id }, 'this run as a dictionary; put one in to come again to it'), saved, restore)
    take_box.addEventListener('toggle', () => { if (take_box.open) texts() })
    function texts() { asked = head?.step ?? 0; send('texts') }

    root.append(el('div', { class: 'bp-stage' }, answers, curves, desk, el('div', { class: 'bp-under' }, flow, layers, el('div', { class: 'bp-extras' }, kept_box, search_box), take_box)))
    const speak = say(root)

    // ---------------------------------------------------------------- frames
    let view = null
    function on_scene(message, buffers) {
      scene = message
      if (view?.kind !== message.view) { view?.stop(); pictures.replaceChildren(); view = { kind: message.view, ...views[message.view](pictures) } }
      view.scene(message, buffers)
    }

    function paint() {
      const { message: m, buffers } = pending
      pending = null; painted = performance.now(); head = m
      view?.draw(m, buffers.slice(2))
      const h = floats(buffers[0]), n = h.length / 5, line = i => h.subarray(i * n, (i + 1) * n)
      const lines = { train: [line(0), line(1)], validation: [line(0), line(2)] }, last = Math.max(line(0)[n - 1] ?? 0, 1)
      const whole = Math.max(last, m.settings.n_epochs * Math.ceil((scene?.n_train ?? 1) / m.settings.batch_size), m.kept_loss?.[0].at(-1) ?? 0), first = n < 2 ? { ylim: [m.val_loss / 4, m.val_loss * 2], dots: ['train', 'validation'] } : {}
      if (m.kept_loss) lines.kept = [m.kept_loss[0], m.kept_loss[1].map(number_of)]
      if (m.guess != null) lines['your guess'] = [[0, whole], [m.guess, m.guess]]
      loss.draw(lines, { ...first, xlim: [0, whole], colours: { 'your guess': 'truth' }, alt: `loss: training ${fmt(number_of(m.train_loss))}, validation ${fmt(number_of(m.val_loss))} after ${m.step} steps` })
      right.draw({ train: [line(0), line(3)], validation: [line(0), line(4)] }, { xlim: [0, whole], dots: n < 2, alt: `accuracy: training ${percent(m.train_accuracy)}, validation ${percent(m.val_accuracy)}` })
      for (const t of tiles) { const v = m[t.name]; t.node.textContent = t.name.endsWith('loss') ? fmt(number_of(v)) : percent(v); t.node.dataset.value = v }
      const g = Float32Array.from(floats(buffers[1]), v => v > 0 && Number.isFinite(v) ? Math.log10(v) : NaN)
      if (n) strip.draw(g, g.length / n, n, size, { alt: `gradient at each of ${g.length / n} layers: ${m.layers.gradient.map(v => fmt(number_of(v), 1)).join(', ')}` })
      for (const gauge of gauges) gauge.draw(scene?.layers ?? [], m.layers[gauge.name].map(number_of), gauge.options)
      controls(m)
      root.dataset.step = m.step; root.dataset.epoch = m.epoch; root.dataset.playing = m.playing; root.dataset.done = m.done; root.dataset.heard = m.heard; root.dataset.seq = m.seq
      root.dataset.pictures = ++root.bpFrames
      for (const [k, t] of times) if (k <= m.heard) { if (root.bpLatency.length < 5000) root.bpLatency.push(performance.now() - t); times.delete(k) }
    }

    function controls(m) {
      const s = m.settings, of = s.n_epochs
      if (m.forced) for (const [name, k] of Object.entries(knobs)) k.set(s[name])
      play.textContent = m.playing ? 'Pause' : m.done ? 'Play again' : 'Play'; play.pressed(m.playing)
      play.disabled = !!m.searching
      for (const b of [step, epoch]) b.disabled = m.done || !!m.searching
      for (const b of story_buttons) b.pressed(b.dataset.story === m.story)
      const story = m.story ? spec.presets[m.story] : null, cured = story && Object.entries(story.cure).every(([k, v]) => s[k] === v)
      told.hidden = !story
      if (story) { look.textContent = story.look; why.textContent = cured ? story.why : ''; why.hidden = !cured; cure.disabled = cured; cure.textContent = cured ? 'Cured' : `Try the cure: ${Object.entries(story.cure).map(([k, v]) => `${knobs[k].spec.label} ${typeof v === 'number' ? fmt(v) : spaced(v)}`).join(', ')}` }
      where.textContent = m.diverged ? `stopped after step ${m.step}` : `epoch ${m.epoch} of ${of}, step ${m.step}${m.done ? ': done' : ''}`
      bar.style.width = `${Math.min(100, 100 * (m.epoch && !m.done ? m.epoch - .5 : m.epoch) / of)}%`
      knobs.momentum.disable(s.optimizer !== 'SGD')
      for (const name of ['n', 'noise']) knobs[name].disable(s.data === 'own')
      for (const name of ['width', 'activation', 'dropout']) knobs[name].disable(s.depth === 0)
      unmark.hidden = m.guess == null
      verdict.hidden = !m.verdict && m.guess == null
      verdict.textContent = m.verdict || (m.guess == null ? '' : `You say it will end at ${fmt(m.guess)}. Play, and see.`)
      forget.hidden = !m.kept.length; compared.hidden = !m.kept.length
      if (m.kept.length) comparison.draw(['', 'kept', 'now'], m.kept.map(r => r.map(v => v == null ? NaN : typeof v === 'string' ? spaced(v) : v)))
      search.textContent = m.searching ? 'Stop' : 'Let the search try'
      contest.hidden = !m.searching && !m.match
      take.hidden = !m.match
      const them = m.match && Object.entries(m.match.settings).map(([k, v]) => `${knobs[k].spec.label} ${typeof v === 'number' ? fmt(v) : spaced(v)}`).join(', ')
      contest.textContent = m.searching ? `Under way: ${m.searching}` : m.match ? `You end at ${fmt(m.match.yours ?? Infinity)}, the search at ${fmt(m.match.found ?? Infinity)}: ${m.match.winner === 'you' ? 'you win' : 'the search wins'}.${them ? ` Its best: ${them}.` : ''}` : ''
      if (take_box.open && !m.playing && asked !== m.step) texts()
      const now = performance.now(), still = !m.playing
      if (still || now - spoken > 4000) { spoken = now; speak(told_in_words(m)) }
    }
    function told_in_words(m) {
      if (m.searching) return `The search is under way: ${m.searching}.`
      if (m.diverged) return `The run is over: ${m.diverged}. Reset, and choose a smaller learning rate.`
      return `Epoch ${m.epoch} of ${m.settings.n_epochs}, step ${m.step}${m.done ? ', done' : m.playing ? '' : ', paused'}: training loss ${fmt(number_of(m.train_loss))}, validation loss ${fmt(number_of(m.val_loss))}, ${percent(m.val_accuracy)} of the validation examples right.${m.verdict ? ' ' + m.verdict : ''}`
    }

    function on_message(message, buffers) {
      if (message.kind === 'scene') { if (pending) { clearTimeout(timer); timer = 0; paint() } return on_scene(message, buffers) }
      if (message.kind === 'texts') { program.value = message.program; saved.value = message.saved; return }
      if (message.kind !== 'frame') return
      model.send({ do: 'shown', seq: message.seq })
      pending = { message: pending?.message.forced ? { ...message, forced: true } : message, buffers }
      const wait = calm() && message.playing ? 1000 - (performance.now() - painted) : 0         // less motion: once a second
      if (timer && wait <= 0) { clearTimeout(timer); timer = 0 }
      if (!timer) wait > 0 ? timer = setTimeout(() => { timer = 0; if (pending) paint() }, wait) : paint()
    }
    const on_error = () => { alarm(model.get('error')); if (model.get('error')) alarm.root.scrollIntoView({ block: 'nearest' }) }
    model.on('msg:custom', on_message); model.on('change:error', on_error)
    alarm(model.get('error'))
    if (root.clientWidth && root.clientWidth < 640) for (const [i, s] of shelves.entries()) s.open = i === 2
    send('hello')

    return () => {
      model.off('msg:custom', on_message); model.off('change:error', on_error)
      try { model.send({ do: 'leave' }) } catch { /* the kernel is gone */ }
      clearTimeout(timer); speak.stop(); colours.stop(); view?.stop(); loss.stop(); right.stop(); strip.stop()
    }
  },
}
