// The page side of the reconstruction viewer. All data of a clip comes once, as buffers; frames, masks and playing never ask the kernel.
// The kernel (or, in a file without one, a table of answers) is asked only for what a model has to compute: one question at a time, and the newest one wins.

const ROWS = ['original', 'masked', 'reconstruction', 'pasted', 'error']
const SILENT = 4000      // ms without an answer before the page says so
const PATIENCE = 60000   // the same for the first question of a kind, whose program is compiled first
const COMPILED = ['answer', 'attend', 'sound', 'save']
const SETTLE = 8         // ms a control must rest before the model is asked
let instances = 0

// Small tools

function make(tag, props = {}, ...children) {   // text is always set as text, so that names with markup in them stay text
  const node = document.createElement(tag)
  for (const [k, v] of Object.entries(props)) {
    if (k === 'text') node.textContent = v
    else if (k.startsWith('on')) node.addEventListener(k.slice(2), v)
    else if (k in node && !k.includes('-') && k !== 'list' && k !== 'role') node[k] = v
    else node.setAttribute(k, v)
  }
  node.append(...children)
  return node
}
const bytesOf = b => b instanceof ArrayBuffer ? new Uint8Array(b) : new Uint8Array(b.buffer, b.byteOffset, b.byteLength)
function arraysOf(specs, buffers) {
  const kinds = { uint8: Uint8Array, float32: Float32Array, int16: Int16Array }, out = {}
  specs.forEach(({ name, dtype, shape }, i) => {
    const raw = bytesOf(buffers[i]), Kind = kinds[dtype]
    const data = Kind === Uint8Array ? raw : new Kind(raw.slice().buffer)   // a copy, because of alignment
    out[name] = Object.assign(data, { dims: shape })
  })
  return out
}
function packed(grid) {   // as numpy.packbits, in hexadecimal
  let out = ''
  for (let i = 0; i < grid.length; i += 8) { let b = 0; for (let j = 0; j < 8; j++) b = b << 1 | (i + j < grid.length && grid[i + j] ? 1 : 0); out += b.toString(16).padStart(2, '0') }
  return out
}
const number = v => v === null || v === undefined || !Number.isFinite(v) ? 'not finite' : v === 0 ? '0' : Math.abs(v) < 1e-3 ? v.toExponential(1) : v.toPrecision(3)
const kindOf = (ask, s) => JSON.stringify([ask, s?.model, s?.compare, !!s?.other])   // questions that are answered by the same programs
const percent = v => `${Math.round(100 * v)}%`

// Patterns that tell without colour: diagonal lines for hidden, a cross for not-a-number, dots for not predicted

function pattern(context, draw, size = 8) {
  const tile = make('canvas', { width: size, height: size }); draw(tile.getContext('2d'), size)
  return context.createPattern(tile, 'repeat')
}
const hatch = (g, n) => { g.fillStyle = '#dbdbdb'; g.fillRect(0, 0, n, n); g.fillStyle = '#8f8f8f'; for (let i = 0; i < n; i++) g.fillRect(i, n - 1 - i, 1.5, 1) }
const dots = (g, n) => { g.fillStyle = '#f4f4f4'; g.fillRect(0, 0, n, n); g.fillStyle = '#8f8f8f'; g.fillRect(1, 1, 2, 2) }
function cross(g, x, y, w, h) {
  g.fillStyle = '#fff'; g.fillRect(x, y, w, h); g.strokeStyle = '#000'; g.lineWidth = 2; g.beginPath()
  g.moveTo(x + 2, y + 2); g.lineTo(x + w - 2, y + h - 2); g.moveTo(x + w - 2, y + 2); g.lineTo(x + 2, y + h - 2); g.stroke()
}
function outline(g, x, y, w, h, colour = '#000') { g.lineWidth = 4; g.strokeStyle = '#fff'; g.strokeRect(x + 1, y + 1, w - 2, h - 2); g.lineWidth = 2; g.strokeStyle = colour; g.strokeRect(x + 1, y + 1, w - 2, h - 2) }

// One modality: what it looks like, patch by patch. Frames have a grid of (time, row, column), spectrograms of (time, frequency)

class Pictures {
  constructor(name, info, lut) {
    Object.assign(this, { name, ...info, lut })
    this.film = this.grid.length === 3
    const [h, w] = this.film ? this.trimmed.slice(1) : [this.trimmed[1], this.trimmed[0]]
    this.size = { w, h, kx: Math.max(1, Math.round((this.film ? 192 : 640) / w)), ky: Math.max(1, Math.round((this.film ? 192 : 224) / h)) }
    this.native = make('canvas', { width: w, height: h }); this.image = new ImageData(w, h)
    this.tokens = this.grid.reduce((a, b) => a * b, 1); this.cursor = new Array(this.grid.length).fill(0)
    this.data = {}
  }
  index(cell) { return cell.reduce((sum, c, i) => sum * this.grid[i] + c, 0) }
  cellAt(fx, fy, frame) {   // fractions of the canvas
    const clamp = (v, n) => Math.min(n - 1, Math.max(0, Math.floor(v * n)))
    return this.film ? [Math.floor(frame / this.patch[0]), clamp(fy, this.grid[1]), clamp(fx, this.grid[2])] : [clamp(fx, this.grid[0]), clamp(1 - fy, this.grid[1])]
  }
  box(cell) {   // of a patch, in canvas pixels
    const { kx, ky, h } = this.size, [, a, b] = this.patch
    if (this.film) return [cell[2] * b * kx, cell[1] * a * ky, b * kx, a * ky]
    return [cell[0] * this.patch[0] * kx, (h - (cell[1] + 1) * this.patch[1]) * ky, this.patch[0] * kx, this.patch[1] * ky]
  }
  *cells(frame) {   // those in sight
    if (this.film) { const t = Math.floor(frame / this.patch[0]); for (let y = 0; y < this.grid[1]; y++) for (let x = 0; x < this.grid[2]; x++) yield [t, y, x] }
    else for (let t = 0; t < this.grid[0]; t++) for (let f = 0; f < this.grid[1]; f++) yield [t, f]
  }
  seconds(cell) { const step = this.duration / this.shape[0] * this.patch[0]; return [cell[0] * step, (cell[0] + 1) * step] }
  get step() { return this.duration / this.shape[0] }
  values(key, frame) {   // put one picture of bytes into the native canvas
    const { w, h } = this.size, out = this.image.data, src = this.data[key], base = this.data.original
    if (this.film) this.colours(src, frame * w * h * 3, out, w * h)
    else for (let t = 0; t < w; t++) for (let f = 0; f < h; f++) { const c = src[t * h + f] * 3, o = ((h - 1 - f) * w + t) * 4; out[o] = this.lut[c]; out[o + 1] = this.lut[c + 1]; out[o + 2] = this.lut[c + 2]; out[o + 3] = 255 }
    this.native.getContext('2d').putImageData(this.image, 0, 0)
  }
  colours(src, p, out, n) { for (let i = 0; i < n; i++) { out[4 * i] = src[p++]; out[4 * i + 1] = src[p++]; out[4 * i + 2] = src[p++]; out[4 * i + 3] = 255 } }
  blit(g) { g.imageSmoothingEnabled = false; g.drawImage(this.native, 0, 0, g.canvas.width, g.canvas.height) }
  copy(g, cell) { const [x, y, w, h] = this.box(cell), { kx, ky } = this.size; g.imageSmoothingEnabled = false; g.drawImage(this.native, x / kx, y / ky, w / kx, h / ky, x, y, w, h) }
  lutColour(v) { const c = Math.max(0, Math.min(255, Math.round(255 * v))) * 3; return `rgb(${this.lut[c]},${this.lut[c + 1]},${this.lut[c + 2]})` }

  draw(g, row, frame) {
    const d = this.data; g.fillStyle = pattern(g, dots); g.fillRect(0, 0, g.canvas.width, g.canvas.height)
    if (!d.original) return
    if (this.missing) return
    if (row === 'original' || row === 'masked') { this.values('original', frame); this.blit(g) }
    if (row === 'masked') this.hatched(g, frame, i => d.hidden[i])
    if (row === 'reconstruction') this.predicted(g, frame, 'screen', d.flags, () => true)
    if (row === 'reconstruction 2') this.predicted(g, frame, 'screen2', d.flags2, () => true)
    if (row === 'without') this.predicted(g, frame, 'alone', d.flags, () => true)
    if (row === 'pasted') this.pasted(g, frame)
    if (row === 'error') this.heat(g, frame, d.error, d.flags)
    if (row === 'error 2') this.heat(g, frame, d.error2, d.flags2)
    if (row === 'gain') this.gains(g, frame)
    if (row === 'attention') this.attention(g, frame)
  }
  hatched(g, frame, which, fill = pattern(g, hatch)) { for (const cell of this.cells(frame)) if (which(this.index(cell))) { g.fillStyle = fill; g.fillRect(...this.box(cell)) } }
  predicted(g, frame, key, flags, which) {   // flags: 1 = predicted, 2 = finite
    if (!this.data[key]) return
    this.values(key, frame)
    for (const cell of this.cells(frame)) {
      const i = this.index(cell); if (!which(i)) continue
      if (!(flags[i] & 1)) continue   // dots below
      if (flags[i] & 2) this.copy(g, cell); else cross(g, ...this.box(cell))
    }
  }
  pasted(g, frame) {
    this.values('original', frame); this.blit(g)
    this.hatched(g, frame, i => this.data.hidden[i], pattern(g, dots))
    this.predicted(g, frame, 'screen', this.data.flags, i => this.data.hidden[i])
  }
  heat(g, frame, error, flags) {
    if (!error) return
    let top = 0; for (const e of error) if (Number.isFinite(e) && e > top) top = e
    for (const cell of this.cells(frame)) {
      const i = this.index(cell); if (!(flags[i] & 1)) continue
      if (Number.isFinite(error[i])) { g.fillStyle = this.lutColour(error[i] / (top || 1)); g.fillRect(...this.box(cell)) } else cross(g, ...this.box(cell))
    }
  }
  gains(g, frame) {   // + blue: the other modality helped, - orange: it hurt
    const gain = this.data.gain; if (!gain) return
    let top = 0; for (const e of gain) if (Math.abs(e) > top) top = Math.abs(e)
    for (const cell of this.cells(frame)) {
      const i = this.index(cell), v = gain[i] / (top || 1), [x, y, w, h] = this.box(cell)
      if (!Number.isFinite(gain[i])) { cross(g, x, y, w, h); continue }
      g.fillStyle = '#fff'; g.fillRect(x, y, w, h); g.globalAlpha = Math.min(1, Math.abs(v)); g.fillStyle = v > 0 ? '#0072b2' : '#d55e00'; g.fillRect(x, y, w, h); g.globalAlpha = 1
      if (Math.abs(v) < 0.12) continue
      g.fillStyle = Math.abs(v) > 0.5 ? '#fff' : '#000'; const s = Math.min(w, h) * 0.4, c = [x + w / 2, y + h / 2]
      g.fillRect(c[0] - s / 2, c[1] - 1, s, 2); if (v > 0) g.fillRect(c[0] - 1, c[1] - s / 2, 2, s)
    }
  }
  attention(g, frame) {
    const a = this.data.attention; if (!a) return
    this.values('original', frame); this.blit(g)
    g.fillStyle = 'rgba(0,0,0,0.45)'; g.fillRect(0, 0, g.canvas.width, g.canvas.height)
    for (const cell of this.cells(frame)) {
      const i = this.index(cell), v = a[i] / (a.top || 1)
      g.globalAlpha = 0.12 + 0.75 * v; g.fillStyle = this.lutColour(0.25 + 0.75 * v); if (v > 0.02) g.fillRect(...this.box(cell)); g.globalAlpha = 1
      if (a.from === i) outline(g, ...this.box(cell), '#000')
    }
  }
}

// The viewer

class Viewer {
  constructor(model, el) {
    Object.assign(this, { model, el, id: ++instances, asked: 0, flying: 0, waiting: false, undone: [], done: [], sounds: {}, waits: {}, kinds: {}, known: new Set(), rows: new Set(ROWS), pictures: {} })
    this.root = make('section', { className: 'avmae', 'aria-label': 'Reconstruction viewer' }); el.append(this.root)
    this.root.addEventListener('focusin', e => e.target.matches('input, select, textarea, canvas') && e.target.setAttribute('data-lm-suppress-shortcuts', 'true'))   // Jupyter takes arrow keys before they come here, unless the element with the focus says no
    this.root.addEventListener('keydown', e => this.key(e))
    this.status = make('p', { className: 'avmae-status', role: 'status', 'aria-live': 'polite', text: 'waiting for the kernel' })
    this.root.append(this.status)
    this.hear = (content, buffers) => this.answer(content, buffers || [])
    this.gone = () => this.say('The kernel is gone: this is its last picture. Start the kernel and run the cell again.', true)
    model.on('msg:custom', this.hear); model.on('comm_live_update', this.gone); model.on('destroy', this.gone)
    this.begin = performance.now()
    this.post({ ask: 'start' })
  }
  close() {
    this.closed = true; this.stop(); this.audio?.close(); clearTimeout(this.timer); Object.values(this.waits).forEach(clearTimeout)
    this.model.off('msg:custom', this.hear); this.model.off('comm_live_update', this.gone); this.model.off('destroy', this.gone)
    this.pictures = {}; this.sounds = {}; this.root.remove()
  }
  say(text, alarm = false) { this.status.textContent = text; this.status.classList.toggle('avmae-alarm', alarm) }
  post(content) {
    const id = ++this.asked
    const kind = content.ask, known = kindOf(kind, this.state), lost = ms => { this.silent = true; this.say(`No answer from the kernel for ${ms / 1000} s: it is busy or gone. This is the last picture.`, true) }
    this.kinds[id] = known
    this.waits[id] = setTimeout(this.known.has(known) ? () => lost(SILENT) : () => {
      this.silent = true; this.say(COMPILED.includes(kind) ? "The model's program for this is being compiled; the first time takes longer." : 'The kernel is at work; the first time takes longer.')
      this.waits[id] = setTimeout(() => lost(PATIENCE), PATIENCE - SILENT)
    }, SILENT)
    try { this.model.send({ ...content, id, page: this.id }) } catch (e) { clearTimeout(this.waits[id]); this.gone() }
    return id
  }
  answer(content, buffers) {
    if (this.closed || content.page !== this.id) return
    clearTimeout(this.waits[content.id]); delete this.waits[content.id]
    if (!content.error) this.known.add(this.kinds[content.id])
    delete this.kinds[content.id]
    if (this.silent) { this.silent = false; this.say('') }
    const arrays = arraysOf(content.arrays || [], buffers)
    if (content.id === this.flying) this.flying = 0
    if (content.error) { this.say(content.error, true); if (content.kind === 'answer') this.refused() }
    else this['on_' + content.kind](content, arrays)
    if (!this.flying && this.waiting) { this.waiting = false; this.ask() }
  }
  refused() { this.passed = this.state.clip; if (this.clip !== undefined && this.state.clip !== this.clip) { this.state.clip = this.clip; this.controls.clip.value = this.clip } }

  // Asking: a moment of rest, one question in flight, the newest state next
  want(now = false) { clearTimeout(this.timer); this.timer = setTimeout(() => this.ask(), now ? 0 : SETTLE) }
  ask() {
    if (this.flying) { this.waiting = true; return }
    this.sent = performance.now(); this.flying = this.post({ ask: 'answer', state: this.state, have: this.clip ?? -1 })
  }

  on_start(c, arrays) {
    Object.assign(this, { info: c, state: c.state, can: c.can })
    for (const m of c.modalities) this.pictures[m.name] = new Pictures(m.name, m, arrays.lut)
    this.frames = Math.max(1, ...Object.values(this.pictures).map(p => p.film ? p.trimmed[0] : 1))
    this.length = Math.max(...c.modalities.map(m => m.duration))
    this.build(); this.want(true); if (this.can.clips > 1) this.page(0)
  }
  on_answer(c, arrays) {
    const first = this.clip === undefined; this.passed = undefined
    if (c.clip) this.take(c.clip, arrays)
    const newer = this.waiting || this.painting
    for (const [m, p] of Object.entries(this.pictures)) {
      const d = p.data
      if (!newer || !d.hidden || c.clip) d.hidden = arrays[`hidden/${m}`].slice()
      for (const k of ['screen', 'error', 'flags', 'screen2', 'error2', 'flags2', 'alone', 'gain']) d[k] = arrays[`${k}/${m}`]
      d.attention = undefined
    }
    this.sounds = c.clip ? {} : { original: this.sounds.original }
    this.last = c; this.facts(c); this.redraw()
    requestAnimationFrame(() => {   // the page is painted after this
      if (this.closed) return
      const ms = performance.now() - this.sent
      Object.assign(this.root.dataset, { answers: +(this.root.dataset.answers || 0) + 1, ms: ms.toFixed(1), modelMs: c.model_ms.toFixed(1) })
      if (first) this.root.dataset.ready = (performance.now() - this.begin).toFixed(0)
      const bad = Object.entries(c.nonfinite || {}).filter(([, n]) => n).map(([m, n]) => `${n} patches of ${m} are not finite (NaN), shown as crosses`)
      this.say([this.can.kernel ? `${c.model_ms.toFixed(0)} ms model, ${ms.toFixed(0)} ms to the screen` : 'computed beforehand', ...bad].join('. '), bad.length > 0)
    })
    if (this.attended && this.can.attention) this.attend(this.attended.m, this.attended.i)
  }
  take(clip, arrays) {
    this.clip = clip.index; this.stop(); this.attended = null
    for (const [m, p] of Object.entries(this.pictures)) { p.data = { original: arrays[`original/${m}`] }; p.missing = clip.missing.includes(m); p.limits = clip.limits[m] }
    this.name.textContent = clip.title + clip.missing.map(m => ` · no ${m}`).join('')
    this.controls.clip.value = clip.index; this.mark()
    if (this.controls.play) this.controls.play.disabled = this.frames < 2 && !clip.sounds
    this.labels()
  }

  // Building the page

  build() {
    const c = this.controls = {}, side = make('div', { className: 'avmae-side' }), stage = make('div', { className: 'avmae-stage' })
    this.name = make('p', { className: 'avmae-name', text: '' })
    side.append(this.buildMasks(c)); if (this.can.paint) side.append(this.buildPaint(c))
    side.append(this.buildShow(c)); if (this.can.save.length) side.append(this.buildSave(c))
    stage.append(this.buildClips(c), this.buildPlay(c), this.buildGrid(), this.buildFacts())
    this.root.prepend(make('div', { className: 'avmae-body' }, side, stage))
    this.root.insertBefore(this.status, null)
    this.sync()
  }
  field(title, ...children) { return make('fieldset', { className: 'avmae-field' }, make('legend', { text: title }), ...children) }
  labelled(text, control, ...more) { return make('label', { className: 'avmae-label' }, make('span', { text }), control, ...more) }
  select(options, label, change) {
    const node = make('select', { 'aria-label': label, onchange: () => change(node.value) })
    node.append(...options.map(o => make('option', { value: Array.isArray(o) ? o[0] : o, text: Array.isArray(o) ? o[1] : o })))
    return node
  }
  check(text, checked, change, title = '') {
    const box = make('input', { type: 'checkbox', checked, onchange: () => change(box.checked) })
    return make('label', { className: 'avmae-check', title }, box, make('span', { text }))
  }
  buildClips(c) {
    const n = this.can.clips, go = i => { this.state.clip = Math.max(0, Math.min(n - 1, Math.round(i) || 0)); c.clip.value = this.state.clip; this.want(true) }
    c.clip = make('input', { type: 'number', min: 0, max: n - 1, value: this.state.clip, className: 'avmae-number', 'aria-label': `clip, 0 to ${n - 1}`, onchange: () => go(c.clip.value) })
    const step = by => go((this.passed ?? this.state.clip) + by)   // on from a clip that could not be shown
    this.go = go; c.thumbs = make('div', { className: 'avmae-thumbs', role: 'group', 'aria-label': 'clips' })
    const bar = make('div', { className: 'avmae-bar' }, this.name)
    if (n > 1) bar.prepend(make('button', { type: 'button', text: '‹', 'aria-label': 'previous clip', onclick: () => step(-1) }), c.clip, make('span', { text: `of 0 to ${n - 1}` }),
      make('button', { type: 'button', text: '›', 'aria-label': 'next clip', onclick: () => step(1) }))
    return make('div', {}, ...(n > 1 ? [c.thumbs] : []), bar)
  }
  page(first) { this.first = Math.max(0, Math.min(this.can.clips - 1, first)); this.post({ ask: 'thumbs', first: this.first, count: 8 }) }
  on_thumbs(c, arrays) {
    const box = this.controls.thumbs, move = (text, label, to) => make('button', { type: 'button', text, 'aria-label': label, disabled: to < 0 || to >= this.can.clips, onclick: () => this.page(to) })
    const tiles = c.clips.map(({ index, title, error }) => {
      const picture = make('canvas', { width: 48, height: 48, 'aria-hidden': 'true' }), pixels = arrays[`thumb/${index}`], g = picture.getContext('2d')
      if (pixels) { const im = new ImageData(48, 48); for (let i = 0; i < 48 * 48; i++) im.data.set([pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2], 255], 4 * i); g.putImageData(im, 0, 0) } else cross(g, 0, 0, 48, 48)
      return make('button', { type: 'button', className: 'avmae-thumb', 'data-index': index, title: title + (error ? `: ${error}` : ''), 'aria-label': `clip ${index}: ${title}${error ? ', cannot be read' : ''}`, onclick: () => this.go(index) }, picture)
    })
    box.replaceChildren(move('«', 'earlier clips', c.first - 8), ...tiles, move('»', 'later clips', c.first + 8)); this.mark()
  }
  mark() { for (const b of this.root.querySelectorAll('.avmae-thumb')) b.setAttribute('aria-pressed', +b.dataset.index === this.clip) }

  buildPlay(c) {
    c.play = make('button', { type: 'button', className: 'avmae-play', text: '▶ play', 'aria-label': 'play', onclick: () => this.source || this.playing ? this.stop() : this.play() })
    c.sound = this.select(this.can.sounds, 'sound to play', () => this.stop())
    c.frame = make('input', { type: 'range', min: 0, max: this.frames - 1, step: 1, value: this.state.frame, className: 'avmae-frame', 'aria-label': 'frame', oninput: () => this.show(+c.frame.value) })
    c.time = make('output', { className: 'avmae-time' })
    const bar = make('div', { className: 'avmae-bar' }, c.play)
    if (this.can.sounds.length) bar.append(this.labelled('sound', c.sound))
    if (this.frames > 1) bar.append(this.labelled('frame', c.frame), c.time)
    return bar
  }
  buildMasks(c) {
    c.masks = {}
    const boxes = Object.values(this.pictures).map(p => {
      const m = p.name, k = c.masks[m] = {}, ratios = this.can.ratios?.[m], set = change => { this.remember(); Object.assign(this.state.hide[m], { painted: '' }, change); this.sync(); this.want() }
      k.ratio = ratios ? make('input', { type: 'range', min: 0, max: ratios.length - 1, step: 1, 'aria-label': `${m}: share hidden`, oninput: () => set({ ratio: ratios[+k.ratio.value] }) })
        : make('input', { type: 'range', min: 0, max: 100, step: 1, 'aria-label': `${m}: share hidden`, oninput: () => set({ ratio: +k.ratio.value / 100 }) })
      k.out = make('output', {})
      k.drop = this.check(`hide all of the ${m}`, false, v => { this.remember(); this.state.hide[m].drop = v; this.sync(); this.want(true) })
      const box = this.field(`${m}: hidden`, this.labelled('share', k.ratio, k.out))
      if (!ratios) {
        k.kind = this.select(p.kinds, `${m}: kind of mask`, v => set({ kind: v }))
        k.seed = make('input', { type: 'number', min: 0, max: 999999, step: 1, className: 'avmae-number', 'aria-label': `${m}: seed of the mask`, onchange: () => set({ seed: Math.max(0, Math.round(+k.seed.value) || 0) }) })
        box.append(this.labelled('kind', k.kind), this.labelled('seed', k.seed))
      }
      box.append(k.drop); return box
    })
    return make('div', {}, ...boxes)
  }
  buildPaint(c) {
    const tool = (value, text, title) => { const b = make('input', { type: 'radio', name: `avmae-tool-${this.id}`, value, checked: value === this.tool, onchange: () => { this.tool = value } }); return make('label', { className: 'avmae-check', title }, b, make('span', { text })) }
    this.tool = 'hide'
    const tools = make('div', { role: 'radiogroup', 'aria-label': 'what a click on a patch does' }, tool('hide', 'brush: hide', 'drag over frames or spectrogram'), tool('reveal', 'eraser: reveal', ''))
    if (this.can.attention) tools.append(tool('look', 'ask: attention', 'where does this patch look?'))
    c.size = this.select([['0', '1 patch'], ['1', '3 patches'], ['2', '5 patches']], 'size of the brush', () => {})
    c.extent = this.select([['all', 'through time'], ['one', 'at this time only']], 'extent of the brush', () => {}); c.extent.value = 'one'
    c.tie = this.check('same time in both', false, () => {}, 'what is painted at one time is painted over all of the other modality at that time')
    c.undo = make('button', { type: 'button', text: 'undo', 'aria-label': 'undo the last change of the masks', onclick: () => this.undo() })
    c.redo = make('button', { type: 'button', text: 'redo', 'aria-label': 'redo', onclick: () => this.redo() })
    return this.field('paint', tools, this.labelled('size', c.size), this.labelled('extent', c.extent), ...(Object.keys(this.pictures).length > 1 ? [c.tie] : []), make('div', { className: 'avmae-bar' }, c.undo, c.redo))
  }
  buildShow(c) {
    const box = this.field('show'), models = this.can.models
    if (models.length > 1) {
      c.model = this.select(models, 'model', v => { this.state.model = v; this.want(true) })
      c.compare = this.select([['', 'none'], ...models.map(m => [m, m])], 'model to compare with', v => { this.state.compare = v; this.labels(); this.want(true) })
      box.append(this.labelled('model', c.model), this.labelled('beside it', c.compare))
    }
    c.rows = {}
    for (const r of ROWS) box.append(c.rows[r] = this.check(r, true, v => { v ? this.rows.add(r) : this.rows.delete(r); this.labels(); this.redraw() }))
    if (this.can.other) box.append(c.other = this.check('what came from the other modality', this.state.other, v => { this.state.other = v; this.labels(); this.want(true) }))
    c.zoom = this.select([['104', 'small'], ['132', 'medium'], ['208', 'large']], 'size of the pictures', v => { this.root.style.setProperty('--avmae-height', v + 'px') }); c.zoom.value = '132'
    box.append(this.labelled('size', c.zoom))
    if (this.can.attention) {
      c.layer = this.select([['', 'all (rollout)'], ...Array.from({ length: this.can.layers }, (_, i) => [i, `layer ${i + 1}`])], 'attention: layer', () => this.again())
      c.head = this.select([['', 'mean of heads'], ...Array.from({ length: this.can.heads }, (_, i) => [i, `head ${i + 1}`])], 'attention: head', () => this.again())
      box.append(this.labelled('attention', c.layer), this.labelled('head', c.head))
    }
    return box
  }
  buildSave(c) {
    const names = { png: 'PNG', svg: 'SVG', animation: 'animation', code: 'code' }
    c.save = {}; c.code = make('textarea', { className: 'avmae-code', readOnly: true, rows: 6, hidden: true, 'aria-label': 'code that rebuilds this view' })
    const bar = make('div', { className: 'avmae-bar' }, ...this.can.save.map(k => c.save[k] = make('button', { type: 'button', text: names[k], 'aria-label': `save as ${names[k]}`, onclick: () => this.save(k) })))
    return this.field('save', bar, c.code)
  }
  buildGrid() { this.grid = make('div', { className: 'avmae-grid' }); return this.grid }
  buildFacts() {
    this.table = make('table', { className: 'avmae-facts' }); this.readout = make('p', { className: 'avmae-readout', role: 'status', 'aria-live': 'polite', text: '' })
    this.help = make('p', { className: 'avmae-help', id: `avmae-help-${this.id}`, text: this.can.paint ? 'Pictures of the row "masked" take the keyboard: arrows move a cursor over the patches, Enter or Space uses the tool, Page Up and Page Down change the frame, Ctrl+Z undoes.' : '' })
    return make('div', {}, this.readout, this.table, this.help)
  }
  shownRows() {
    const out = ROWS.filter(r => this.rows.has(r))
    if (this.state.compare) out.push('reconstruction 2', 'error 2')
    if (this.state.other) out.push('without', 'gain')
    if (this.attended) out.push('attention')
    return out
  }
  rowName(row) {
    const other = Object.keys(this.pictures).length > 1 ? 'the other' : ''
    return { 'reconstruction 2': `reconstruction, ${this.state.compare}`, 'error 2': `error, ${this.state.compare}`, without: `without ${other}`, gain: `from ${other}: + less error, − more`,
      reconstruction: this.state.compare ? `reconstruction, ${this.state.model || this.can.models[0]}` : 'reconstruction' }[row] || row
  }
  labels() {   // rows of canvases; made anew when other rows are shown
    if (!this.grid || this.clip === undefined) return
    const focus = document.activeElement?.dataset?.key, names = Object.keys(this.pictures), rows = this.shownRows()
    this.canvases = []
    const spec = Object.values(this.pictures).find(p => !p.film)
    const cells = rows.flatMap(row => [make('div', { className: 'avmae-row', text: this.rowName(row) }), ...this.order().map(p => this.cell(row, p))])
    this.grid.style.gridTemplateColumns = `minmax(64px, 104px) ${this.order().map(p => p.film ? 'auto' : 'minmax(200px, 1fr)').join(' ')}`
    this.grid.replaceChildren(...cells, ...(rows.length ? this.axis() : []))
    if (focus) this.grid.querySelector(`[data-key="${focus}"]`)?.focus()
  }
  order() { return Object.values(this.pictures).sort((a, b) => b.film - a.film) }
  cell(row, p) {
    const { w, h, kx, ky } = p.size, key = `${row}/${p.name}`, keyed = row === 'masked' && this.can.paint
    const canvas = make('canvas', { width: w * kx, height: h * ky, className: p.film ? 'avmae-film' : 'avmae-spectrogram', 'data-key': key, 'data-row': row, 'data-modality': p.name,
      role: keyed ? 'application' : 'img', 'aria-label': `${this.rowName(row)}: ${p.name}${p.missing ? ' (this clip has none)' : ''}${keyed ? '. Paint with arrow keys and Enter' : ''}` })
    if (keyed) { canvas.tabIndex = 0; canvas.setAttribute('aria-describedby', this.help.id); canvas.addEventListener('focus', () => this.redraw()); canvas.addEventListener('blur', () => this.redraw()); canvas.addEventListener('keydown', e => this.cursorKey(e, p)) }
    if (!p.missing) { canvas.addEventListener('pointerdown', e => this.down(e, p)); canvas.addEventListener('pointermove', e => this.move(e, p)); canvas.addEventListener('pointerup', () => this.up()); canvas.addEventListener('pointercancel', () => this.up()) }
    this.canvases.push({ canvas, row, p, context: canvas.getContext('2d') })
    if (p.film) return make('div', { className: 'avmae-cell' }, canvas)
    const head = make('div', { className: 'avmae-playhead' }), hertz = make('div', { className: 'avmae-hertz', 'aria-hidden': 'true' }, ...p.ticks.map(([text, at]) => make('span', { text, style: `bottom:${100 * at}%` })))
    return make('div', { className: 'avmae-cell avmae-wide' }, hertz, make('div', { className: 'avmae-sound' }, canvas, head))
  }
  axis() {
    return [make('div', {}), ...this.order().map(p => {
      if (p.film) return make('div', { className: 'avmae-under', text: `frame at ${(this.state.frame * p.step).toFixed(2)} s`, 'data-under': 'frame' })
      const covered = p.trimmed[0] * p.step, count = 5, step = covered / (count - 1)
      return make('div', { className: 'avmae-under avmae-wide' }, make('div', { className: 'avmae-hertz', text: 'Hz' }), make('div', { className: 'avmae-seconds' }, ...Array.from({ length: count }, (_, i) => make('span', { text: `${(i * step).toFixed(2)}${i === count - 1 ? ' s' : ''}`, style: `left:${100 * i / (count - 1)}%` }))))
    })]
  }

  // Drawing

  redraw(films = false) {   // films: only what depends on the frame
    if (!this.canvases || this.clip === undefined) return
    for (const { canvas, row, p, context } of this.canvases) {
      if (films && !p.film) continue
      p.draw(context, row, this.state.frame)
      if (row === 'masked' && document.activeElement === canvas) { const cell = [...p.cursor]; if (p.film) cell[0] = Math.floor(this.state.frame / p.patch[0]); outline(context, ...p.box(cell), '#d00') }
    }
    this.head(); this.root.dataset.frame = this.state.frame; this.root.dataset.drawn = +(this.root.dataset.drawn || 0) + 1
  }
  head(seconds = null) {
    const film = Object.values(this.pictures).find(p => p.film), at = seconds ?? this.state.frame * (film ? film.step : 0)
    for (const p of Object.values(this.pictures)) if (!p.film) for (const node of this.grid.querySelectorAll('.avmae-playhead')) node.style.left = `${Math.min(100, 100 * at / (p.trimmed[0] * p.step))}%`
    if (film) { this.controls.time.textContent = `${this.state.frame + 1} of ${this.frames}, ${(this.state.frame * film.step).toFixed(2)} s`; const under = this.grid.querySelector('[data-under]'); if (under) under.textContent = `frame at ${(this.state.frame * film.step).toFixed(2)} s` }
    this.root.dataset.playhead = at.toFixed(3)
  }
  show(frame) { this.state.frame = Math.max(0, Math.min(this.frames - 1, frame)); this.controls.frame.value = this.state.frame; this.redraw(true) }
  facts(c) {
    const rows = Object.entries(c.figures), other = rows.some(([, f]) => f.without !== undefined), two = rows.some(([, f]) => f.error2 !== undefined)
    const head = ['', 'hidden', 'error on hidden', ...(two ? [`error, ${this.state.compare}`] : []), ...(other ? ['without the other', 'removed by the other'] : [])]
    const line = ([m, f]) => [m, `${f.hidden} of ${f.tokens}`, f.hidden ? number(f.error) : '–', ...(two ? [f.hidden ? number(f.error2) : '–'] : []), ...(other ? [f.hidden ? number(f.without) : '–', f.hidden && Number.isFinite(f.removed) ? percent(f.removed) : '–'] : [])]
    const scope = head.map((h, i) => make(i ? 'th' : 'td', i ? { text: h, scope: 'col' } : { text: h }))
    this.table.replaceChildren(make('caption', { text: `mean square error, statistics: ${c.statistics}` }), make('thead', {}, make('tr', {}, ...scope)),
      make('tbody', {}, ...rows.map(r => { const [first, ...rest] = line(r); return make('tr', {}, make('th', { text: first, scope: 'row' }), ...rest.map(v => make('td', { text: v }))) })))
  }
  sync() {   // controls as the state says
    for (const [m, k] of Object.entries(this.controls.masks)) {
      const h = this.state.hide[m], ratios = this.can.ratios?.[m]
      k.ratio.value = ratios ? ratios.indexOf(h.ratio) : Math.round(100 * h.ratio); k.out.textContent = h.painted ? 'painted' : percent(h.ratio)
      k.ratio.setAttribute('aria-valuetext', h.painted ? 'painted' : `${percent(h.ratio)} hidden`)
      k.drop.querySelector('input').checked = h.drop; if (k.kind) { k.kind.value = h.kind; k.seed.value = h.seed }
    }
    const c = this.controls
    if (c.model) { c.model.value = this.state.model || this.can.models[0]; c.compare.value = this.state.compare }
    if (c.undo) { c.undo.disabled = !this.done.length; c.redo.disabled = !this.undone.length }
  }

  // Painting

  remember() { const now = JSON.stringify(this.state.hide); if (this.done.at(-1) !== now) this.done.push(now); if (this.done.length > 100) this.done.shift(); this.undone = []; this.controls.undo && (this.controls.undo.disabled = false) }
  undo() { if (this.done.length) { this.undone.push(JSON.stringify(this.state.hide)); this.restore(this.done.pop()) } }
  redo() { if (this.undone.length) { this.done.push(JSON.stringify(this.state.hide)); this.restore(this.undone.pop()) } }
  restore(text) { this.state.hide = JSON.parse(text); this.sync(); this.want(true) }
  point(e, p) { const b = e.currentTarget.getBoundingClientRect(); return p.cellAt((e.clientX - b.left) / b.width, (e.clientY - b.top) / b.height, this.state.frame) }
  down(e, p) {
    const cell = this.point(e, p); p.cursor = [...cell]; this.describe(p, cell)
    if (!this.can.paint) return
    if (this.tool === 'look') return this.attend(p.name, p.index(cell))
    e.preventDefault(); if (e.currentTarget.tabIndex === 0) e.currentTarget.focus(); e.currentTarget.setPointerCapture?.(e.pointerId); this.remember(); this.painting = p; this.stroke(p, cell)
  }
  move(e, p) { const cell = this.point(e, p); if (this.painting === p) this.stroke(p, cell); else this.describe(p, cell) }
  up() { if (this.painting) { this.painting = null; this.want(true) } }
  stroke(p, cell) {
    const r = +this.controls.size.value, value = this.tool === 'hide' ? 1 : 0, tie = this.controls.tie.querySelector('input').checked, all = this.controls.extent.value === 'all' && !tie
    const near = (c, n) => { const out = []; for (let i = Math.max(0, c - r); i <= Math.min(n - 1, c + r); i++) out.push(i); return out }
    const spread = i => i === 0 && all ? [...Array(p.grid[0]).keys()] : i === 0 && p.film ? [cell[0]] : near(cell[i], p.grid[i])
    let todo = [[]]; for (let i = 0; i < cell.length; i++) todo = todo.flatMap(t => spread(i).map(v => [...t, v]))
    for (const t of todo) p.data.hidden[p.index(t)] = value
    if (tie) for (const q of Object.values(this.pictures)) if (q !== p && !q.missing) this.tied(p, todo, q, value)
    for (const q of tie ? Object.values(this.pictures) : [p]) { Object.assign(this.state.hide[q.name], { painted: packed(q.data.hidden), drop: false }); }
    this.sync(); this.redraw(); this.describe(p, cell); this.want()
  }
  tied(p, cells, q, value) {   // all of the other modality at the same time
    for (const t of new Set(cells.map(c => c[0]))) {
      const [from, to] = p.seconds([t]), per = q.tokens / q.grid[0]
      for (let u = 0; u < q.grid[0]; u++) { const [a, b] = q.seconds([u]); if (b > from + 1e-6 && a < to - 1e-6) q.data.hidden.fill(value, u * per, (u + 1) * per) }
    }
  }
  describe(p, cell) {
    const i = p.index(cell), d = p.data; if (!d.hidden) return
    const [a, b] = p.seconds(cell), place = p.film ? `row ${cell[1] + 1}, column ${cell[2] + 1}` : `${p.hertz[cell[1]]} Hz`
    const error = d.flags && !(d.flags[i] & 1) ? 'not predicted' : `error ${number(d.error?.[i])}`
    this.readout.textContent = `${p.name}, ${a.toFixed(2)} to ${b.toFixed(2)} s, ${place}: ${d.hidden[i] ? 'hidden' : 'visible'}, ${error}` + (d.gain ? `, ${number(d.gain[i])} less with the other` : '') + (d.attention ? `, attention ${(100 * d.attention[i]).toFixed(2)}%` : '')
  }
  cursorKey(e, p) {
    const steps = p.film ? { ArrowLeft: [2, -1], ArrowRight: [2, 1], ArrowUp: [1, -1], ArrowDown: [1, 1] } : { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 1], ArrowDown: [1, -1] }
    const cell = p.cursor; if (p.film) cell[0] = Math.floor(this.state.frame / p.patch[0])
    if (steps[e.key]) { const [i, d] = steps[e.key]; cell[i] = Math.max(0, Math.min(p.grid[i] - 1, cell[i] + d)) }
    else if (e.key === 'PageDown' || e.key === 'PageUp') { this.show(this.state.frame + (e.key === 'PageDown' ? 1 : -1)); if (p.film) cell[0] = Math.floor(this.state.frame / p.patch[0]) }
    else if (e.key === 'Enter' || e.key === ' ') { if (this.tool === 'look') this.attend(p.name, p.index(cell)); else { this.remember(); this.stroke(p, cell) } }
    else return
    e.preventDefault(); this.redraw(); this.describe(p, cell)
  }
  key(e) {
    e.stopPropagation()   // the notebook would take the arrow keys
    if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === 'z' && this.controls?.undo && !/^(INPUT|TEXTAREA)$/.test(e.target.tagName + (e.target.type === 'range' ? 'range' : ''))) { e.preventDefault(); e.shiftKey ? this.redo() : this.undo() }
  }

  // Attention

  attend(m, i) {
    this.attended = { m, i }
    const pick = v => v === '' ? null : +v
    this.post({ ask: 'attend', state: this.state, modality: m, token: i, layer: pick(this.controls.layer.value), head: pick(this.controls.head.value) })
  }
  again() { if (this.attended) this.attend(this.attended.m, this.attended.i) }
  on_attend(c, arrays) {
    let top = 0; for (const m in this.pictures) for (const v of arrays[`attention/${m}`]) if (v > top && v < 1) top = v
    for (const [m, p] of Object.entries(this.pictures)) p.data.attention = Object.assign(arrays[`attention/${m}`], { top, from: m === c.modality ? c.token : -1 })
    if (!this.grid.querySelector('[data-row="attention"]')) this.labels()
    this.redraw(); this.root.dataset.attended = c.token
    this.readout.textContent = `${c.part}, from ${c.modality} patch ${c.token}: ` + Object.entries(c.shares).map(([m, s]) => `${percent(s)} to ${m}`).join(', ') + (c.note ? `. ${c.note}` : '')
  }

  // Playing

  async play() {
    const which = this.controls.sound.value, film = Object.values(this.pictures).find(p => p.film)
    this.playing = true; this.controls.play.textContent = '■ stop'; this.controls.play.setAttribute('aria-label', 'stop')
    let sound = null
    if (this.can.sounds.length) {
      if (this.sounds[which] === undefined) { const id = this.post({ ask: 'sound', state: this.state, which }); sound = await new Promise(found => { (this.listening ||= {})[id] = found }) } else sound = this.sounds[which]
    }
    if (!this.playing || this.closed) return
    const length = Math.max(film ? film.trimmed[0] * film.step : 0, sound ? sound.wave.length / sound.rate : 0)
    let clock = () => performance.now() / 1000
    if (sound && sound.wave.length) {
      this.audio ||= new AudioContext(); await this.audio.resume()
      const buffer = this.audio.createBuffer(1, sound.wave.length, sound.rate), channel = buffer.getChannelData(0)
      for (let i = 0; i < channel.length; i++) channel[i] = sound.wave[i] / 32767
      this.source = this.audio.createBufferSource(); this.source.buffer = buffer; this.source.connect(this.audio.destination); clock = () => this.audio.currentTime; this.source.start()
    }
    const start = clock(); this.root.dataset.playing = which || 'silent'
    const tick = () => {
      if (!this.playing || this.closed) return
      const t = clock() - start; if (t >= length) return this.stop()
      if (film) { const frame = Math.min(this.frames - 1, Math.floor(t / film.step)); if (frame !== this.state.frame) { this.state.frame = frame; this.controls.frame.value = frame; this.redraw(true) } }
      this.head(t); this.root.dataset.sounded = (sound ? t : 0).toFixed(3); this.ticking = requestAnimationFrame(tick)
    }
    tick()
  }
  on_sound(c, arrays) {
    const sound = arrays.wave ? { wave: arrays.wave, rate: c.rate } : null
    this.sounds[c.which] = sound; if (!sound) this.say(c.note || 'there is no sound', false)
    this.listening?.[c.id]?.(sound)
  }
  stop() {
    this.playing = false; cancelAnimationFrame(this.ticking); if (this.source) { try { this.source.stop() } catch (e) {} this.source = null }
    if (this.controls?.play) { this.controls.play.textContent = '▶ play'; this.controls.play.setAttribute('aria-label', 'play') }
    this.root.dataset.playing = ''
  }

  // Saving

  save(kind) { if (kind === 'png' && !this.can.kernel) return this.picture(); this.say('drawing …'); this.post({ ask: 'save', state: this.state, what: kind }) }
  on_save(c, arrays) {
    if (c.what === 'code') { this.controls.code.hidden = false; this.controls.code.value = c.text; this.controls.code.focus(); this.controls.code.select(); navigator.clipboard?.writeText(c.text).catch(() => {}); return this.say('the code that rebuilds this view, copied if the browser allows it') }
    this.download(new Blob([arrays.file], { type: c.mime }), c.name)
  }
  picture() {   // without a kernel: the canvases below each other
    const across = this.order(), width = across.reduce((s, p) => s + p.size.w * p.size.kx + 8, 0), rows = this.shownRows(), height = Math.max(...across.map(p => p.size.h * p.size.ky)) + 8
    const page = make('canvas', { width: width + 160, height: height * rows.length }), g = page.getContext('2d'); g.fillStyle = '#fff'; g.fillRect(0, 0, page.width, page.height); g.fillStyle = '#000'; g.font = '14px sans-serif'
    for (const { canvas, row, p } of this.canvases) { const x = 160 + across.slice(0, across.indexOf(p)).reduce((s, q) => s + q.size.w * q.size.kx + 8, 0), y = rows.indexOf(row) * height; g.drawImage(canvas, x, y); g.fillText(this.rowName(row), 4, y + 20) }
    page.toBlob(b => this.download(b, 'reconstruction.png'))
  }
  download(blob, name) {
    const link = make('a', { href: URL.createObjectURL(blob), download: name }); this.root.append(link); link.click(); link.remove()
    setTimeout(() => URL.revokeObjectURL(link.href), 10000); this.root.dataset.saved = `${name} ${blob.size}`; this.say(`saved ${name}, ${(blob.size / 1000).toFixed(0)} kB`)
  }
}

function render({ model, el }) { const viewer = new Viewer(model, el); return () => viewer.close() }
export default { render }
