// Two stand-ins for a kernel: a small server on this machine (`avmae view`), and a table of answers inside the file (`save_html`).

const base64 = text => Uint8Array.from(atob(text), c => c.charCodeAt(0))

class Stand {   // as much of an anywidget model as the viewer uses
  constructor() { this.hearers = [] }
  on(event, f) { if (event === 'msg:custom') this.hearers.push(f) }
  off(event, f) { this.hearers = this.hearers.filter(h => h !== f) }
  tell(content, buffers) { for (const h of [...this.hearers]) h(content, buffers) }
}

export class Served extends Stand {
  constructor(address) { super(); this.address = address }
  async send(ask) {
    let raw
    try { raw = await (await fetch(this.address, { method: 'POST', body: JSON.stringify(ask) })).arrayBuffer() } catch (e) { return }   // the viewer says that nobody answers
    const size = new DataView(raw).getUint32(0), content = JSON.parse(new TextDecoder().decode(new Uint8Array(raw, 4, size)))
    let at = 4 + size
    this.tell(content, (content.sizes || []).map(n => { const part = raw.slice(at, at + n); at += n; return new DataView(part) }))
  }
}

async function pixels(uri, channels) {   // of a picture inside the file
  const image = new Image(); image.src = uri; await image.decode()
  const canvas = document.createElement('canvas'); canvas.width = image.width; canvas.height = image.height
  const g = canvas.getContext('2d', { willReadFrequently: true }); g.drawImage(image, 0, 0)
  const rgba = g.getImageData(0, 0, image.width, image.height).data, out = new Uint8Array(image.width * image.height * channels)
  for (let i = 0, o = 0; i < rgba.length; i += 4) for (let c = 0; c < channels; c++) out[o++] = rgba[i + c]
  return out
}

export class Stored extends Stand {
  constructor(table) { super(); this.table = table }
  key(state) { return Object.keys(this.table.ratios).map(m => { const h = state.hide[m]; return h.drop ? 'drop' : this.table.ratios[m].indexOf(h.ratio) }).join('/') }
  async sound(ask) {
    const told = { id: ask.id, page: ask.page, kind: 'sound', which: ask.which, arrays: [] }, key = this.key(ask.state), at = this.table.start.content.modalities.findIndex(m => m.grid.length === 2)
    const found = this.table.sounds[ask.which === 'original' ? 'original' : `${ask.which}/${ask.which === 'masked' ? key.split('/')[at] : key}`]
    if (!found) return this.tell({ ...told, note: `no sound to play: this clip's ${ask.which} has none, or it is not finite` }, [])
    let heard
    try { heard = await new OfflineAudioContext(1, 1, found.rate).decodeAudioData(base64(found.data).buffer) } catch (e) { return this.tell({ ...told, note: 'no sound: this browser cannot decode Opus in WebM' }, []) }
    const wave = Int16Array.from(heard.getChannelData(0), v => 32767 * Math.max(-1, Math.min(1, v)))
    this.tell({ ...told, rate: found.rate, arrays: [{ name: 'wave', dtype: 'int16', shape: [wave.length] }] }, [wave.buffer])
  }
  async send(ask) {
    if (ask.ask === 'sound') return this.sound(ask)
    const found = ask.ask === 'answer' ? this.table.answers[this.key(ask.state)] : this.table[ask.ask]
    if (!found) return this.tell({ id: ask.id, page: ask.page, kind: ask.ask, error: 'this file holds no answer to that' }, [])
    const parts = ask.ask === 'answer' && ask.have < 0 ? [found, this.table.clip] : [found]
    const arrays = parts.flatMap(p => p.arrays), buffers = await Promise.all(arrays.map(a => a.channels ? pixels(a.data, a.channels) : base64(a.data)))
    this.tell({ ...Object.assign({}, ...parts.map(p => p.content)), id: ask.id, page: ask.page, kind: ask.ask, arrays }, buffers)
  }
}
