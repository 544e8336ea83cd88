// Three orthogonal slices of a volume, from sheets of axial slices that lie hidden in the page.
const COLOURS = [null, [208, 106, 27], [79, 143, 104], [181, 86, 138], [138, 122, 42]];
const read = async (image) => {
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.height);
};
// The voxel (x, y, z) stands in tile z, at column x and row y of it.
const unrolled = (sheet, [d, h, w], columns) => {
  const volume = new Uint8Array(d * h * w);
  for (let z = 0; z < w; z++) {
    const left = (z % columns) * d, top = Math.floor(z / columns) * h;
    for (let y = 0; y < h; y++)
      for (let x = 0; x < d; x++)
        volume[(x * h + y) * w + z] = sheet.data[4 * ((top + y) * sheet.width + left + x)];
  }
  return volume;
};
const draw = (box, state) => {
  const [d, h, w] = state.shape, at = state.at, labels = state.labels[state.overlay];
  const index = (x, y, z) => (x * h + y) * w + z;
  // Across and down of each plane; up is superior or anterior, so the second axis runs backwards.
  const planes = [[h, w, (i, j) => index(at[0], i, w - 1 - j)], [d, w, (i, j) => index(i, at[1], w - 1 - j)], [d, h, (i, j) => index(i, h - 1 - j, at[2])]];
  const scale = [[1, 2], [0, 2], [0, 1]];
  box.querySelectorAll("canvas").forEach((canvas, axis) => {
    const [wide, tall, where] = planes[axis], pen = canvas.getContext("2d");
    [canvas.width, canvas.height] = [wide, tall];
    canvas.style.aspectRatio = `${wide * state.spacing[scale[axis][0]]} / ${tall * state.spacing[scale[axis][1]]}`;
    const image = pen.createImageData(wide, tall);
    for (let j = 0; j < tall; j++)
      for (let i = 0; i < wide; i++) {
        const k = where(i, j), grey = state.voxels[k], colour = labels && COLOURS[labels[k] % COLOURS.length], o = 4 * (j * wide + i);
        for (let c = 0; c < 3; c++) image.data[o + c] = colour ? 0.55 * grey + 0.45 * colour[c] : grey;
        image.data[o + 3] = 255;
      }
    pen.putImageData(image, 0, 0);
    const [a, b] = scale[axis], across = at[a] + 0.5, down = [d, h, w][b] - at[b] - 0.5;
    pen.fillStyle = "rgba(155,179,255,.55)";
    pen.fillRect(across - 0.5, 0, 1, tall);
    pen.fillRect(0, down - 0.5, wide, 1);
  });
  const k = index(...at), names = state.labels.map((one) => state.classes[one[k]]);
  const said = names.length ? names.map((name, i) => `${state.names[i]}: ${name}`).join("; ") : "no labels";
  box.querySelector("[data-here]").textContent = `At ${at.join(", ")}: intensity ${state.voxels[k]}; ${said}.`;
};
const states = new WeakMap(), waking = new WeakSet();
const readIn = async (box) => {
  const told = JSON.parse(box.dataset.volume), labels = [], images = box.querySelectorAll("[data-sheet]");
  let voxels = null;
  for (const image of images) {
    const volume = unrolled(await read(image), told.shape, told.columns);
    image.dataset.sheet === "voxels" ? (voxels = volume) : labels.push(volume);
  }
  const names = [...box.querySelectorAll("[data-overlay]")].slice(1).map((button) => button.textContent);
  const state = { ...told, voxels, labels, names, overlay: labels.length ? 0 : -1, at: told.shape.map((side) => Math.floor(side / 2)) };
  states.set(box, state);
};
const wake = async (box) => {
  waking.add(box);
  await readIn(box).finally(() => waking.delete(box));
  box.dataset.ready = "";
  draw(box, states.get(box));
};
element.addEventListener("input", (event) => {
  const box = event.target.closest("[data-volume]"), state = box && states.get(box);
  if (!state || !event.target.matches("input[data-axis]")) return;
  state.at[Number(event.target.dataset.axis)] = Number(event.target.value);
  draw(box, state);
});
element.addEventListener("click", (event) => {
  const box = event.target.closest("[data-volume]"), state = box && states.get(box);
  if (!state) return;
  const button = event.target.closest("[data-overlay]");
  if (button) {
    state.overlay = Number(button.dataset.overlay);
    box.querySelectorAll("[data-overlay]").forEach((one) => one.setAttribute("aria-pressed", one === button));
    return draw(box, state);
  }
  if (!event.target.matches("canvas")) return;
  const canvas = event.target, place = canvas.getBoundingClientRect(), axis = Number(canvas.dataset.axis);
  const [a, b] = [[1, 2], [0, 2], [0, 1]][axis];
  const clamp = (value, side) => Math.min(Math.max(Math.floor(value), 0), side - 1);
  state.at[a] = clamp(((event.clientX - place.left) / place.width) * canvas.width, state.shape[a]);
  state.at[b] = clamp((1 - (event.clientY - place.top) / place.height) * canvas.height, state.shape[b]);
  box.querySelectorAll("input[data-axis]").forEach((input, i) => (input.value = state.at[i]));
  draw(box, state);
});
// A run does not replace the box: Gradio changes what differs in it, and takes the mark away.
const look = () => element.querySelectorAll("[data-volume]:not([data-ready])").forEach((box) => waking.has(box) || wake(box));
new MutationObserver(look).observe(element, { childList: true, subtree: true, attributeFilter: ["data-ready"] });
look();
