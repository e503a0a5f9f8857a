/* The front end of live.Live: knobs above, panels below, and a player where there are frames.
   The kernel computes; this file draws what it is told, in panels of the kinds that `painters` knows. */

const worded = v => typeof v === 'string' ? ({ nan: NaN, inf: Infinity, '-inf': -Infinity })[v] ?? v : v   // numbers that JSON cannot say
const colouring = { signed, size, classes, bands }

const painters = {
  lines(box, p) {
    const chart = Lines(box, { title: p.title, alt: p.alt })
    return { stop: chart.stop, draw: q => chart.draw(q.lines, { ...q.options, alt: q.alt }) }
  },
  heat(box, p) {
    const map = heat(box, { title: p.title, alt: p.alt, aspect: p.options.aspect, x: p.options.x, y: p.options.y, xlim: p.options.xlim, ylim: p.options.ylim, key: p.options.key })
    return { stop: map.stop, draw: q => map.draw(q.values, q.rows, q.cols, colouring[q.colours], { ...q.options, alt: q.alt }) }
  },
  bars(box, p) {
    const b = bars(box, { title: p.title })
    return { draw: q => b.draw(q.names, q.values.map(worded), q.options) }
  },
  table(box, p) {
    const t = table(box, { title: p.title })
    return { draw: q => t.draw(q.head, q.rows.map(r => r.map(worded))) }
  },
  text(box) {
    const line = el('p', { class: 'bp-text' })
    box.append(line)
    return { draw: q => { line.textContent = q.text } }
  },
}

// numbers that came as bytes take the places that are kept for them
function unpack({ frames, arrays }) {
  const made = arrays.map(a => a.dtype === 'u1' ? bytes(a.data) : floats(a.data))
  const put = v => Array.isArray(v) ? v.map(put) : v && typeof v === 'object' ? ('$' in v ? made[v.$] : Object.fromEntries(Object.entries(v).map(([k, w]) => [k, put(w)]))) : v
  return frames.map(put)
}

export default {
  render({ model, el: root }) {
    const spec = model.get('spec'), colours = theme(root)
    root.classList.add('bp-live')
    root.setAttribute('role', 'group'); root.setAttribute('aria-label', spec.title || 'a live picture')
    if (spec.title) root.append(el('p', { class: 'bp-title', 'aria-hidden': 'true' }, spec.title))
    const alarm = alerts(root), shelf = el('div', { class: 'bp-knobs' })
    root.append(shelf)

    const knobs = spec.knobs.map(k => knob({ ...k, value: model.get('values')[k.name] }, value => {
      model.set('values', { ...model.get('values'), [k.name]: value })
      model.save_changes()
    }))
    shelf.append(...knobs.map(k => k.root))
    if (!knobs.length) shelf.remove()

    let frames = [], panels = [], shape = ''
    const film = spec.frames ? player(root, { label: spec.frames, fps: spec.fps, onframe: show }) : null
    const place = el('div', { class: 'bp-panels' })
    root.append(place)
    const speak = say(root, { hidden: true })

    function show(i) {
      const frame = frames[i], kinds = JSON.stringify(frame.map(p => [p.kind, p.title]))
      if (kinds !== shape) {
        for (const p of panels) p.stop?.()
        shape = kinds
        place.replaceChildren()
        panels = frame.map(p => { const box = el('div', { class: `bp-panel bp-panel-${p.kind}` }); place.append(box); return painters[p.kind](box, p) })
      }
      frame.forEach((p, k) => panels[k].draw(p))
      const said = frame.filter(p => p.kind === 'text').map(p => p.text).join(' ')
      if (said) speak(said)
      root.dataset.frame = i
      root.dataset.pictures = Number(root.dataset.pictures ?? 0) + 1
    }

    function picture() {
      const ended = !film || film.at >= frames.length - 1
      frames = unpack(model.get('picture'))
      if (!film) return show(0)
      film.length(frames.length)
      film.go(ended && !film.playing ? frames.length - 1 : film.at)
    }
    const values = () => { for (const k of knobs) if (document.activeElement !== k.input) k.set(model.get('values')[k.spec.name]) }
    const error = () => alarm(model.get('error'))
    model.on('change:picture', picture); model.on('change:values', values); model.on('change:error', error)
    picture(); error()

    return () => {
      model.off('change:picture', picture); model.off('change:values', values); model.off('change:error', error)
      film?.stop(); speak.stop(); colours.stop()
      for (const p of panels) p.stop?.()
    }
  },
}
