// The builder of a tray: the text field is the truth, the picture reads and writes it.
const box = element.querySelector("[data-tray]");
const known = JSON.parse(box.dataset.known), colours = JSON.parse(box.dataset.colours);
const offered = JSON.parse(box.dataset.offered), pairs = JSON.parse(box.dataset.pairs), most = Number(box.dataset.most);
const board = box.querySelector(".board"), shelf = box.querySelector(".objects"), said = box.querySelector("[data-said]");
const artist = box.querySelector("select");
const field = () => document.querySelector("#" + box.dataset.field + " textarea");
let things = new Map(), colour = "white", hand = null, last = null;

const article = (name) => ("aeiou".includes(name[0]) ? "an " : "a ") + name;
const read = (text) => {
  const found = new Map();
  let on = "white";
  for (const piece of text.toLowerCase().split(/[;\n]/)) {
    const [name, cell, who] = piece.trim().split(/\s+/);
    if (name === "on" && cell in colours) on = cell;
    else if (known.includes(name) && /^\d+$/.test(cell) && Number(cell) < 16) found.set(Number(cell), { name, who: who || artist.value });
  }
  return [found, on];
};
const write = () => [`on ${colour}`, ...[...things].sort((a, b) => a[0] - b[0]).map(([cell, t]) => `${t.name} ${cell} ${t.who}`)].join("; ");
const paint = (node, name, who) => {
  const place = known.indexOf(name);
  node.style.backgroundImage = `url(gradio_api/file=assets/data/sprites/${who}.png)`;
  node.style.backgroundPosition = `${(place % 6) * 20}% ${Math.floor(place / 6) * 20}%`;
};
const draw = () => {
  board.style.background = `rgb(${colours[colour].join(",")})`;
  [...board.children].forEach((cell, i) => {
    const thing = things.get(i);
    cell.replaceChildren();
    cell.setAttribute("aria-label", `Cell ${i}: ${thing ? article(thing.name) : "empty"}`);
    if (!thing) return;
    const drawing = document.createElement("span");
    drawing.className = "drawing";
    paint(drawing, thing.name, thing.who);
    cell.append(drawing);
  });
  for (const button of shelf.children) {
    button.setAttribute("aria-pressed", String(hand === button.dataset.name));
    paint(button.firstElementChild, button.dataset.name, artist.value);
  }
  for (const swatch of box.querySelectorAll("[data-colour]")) swatch.setAttribute("aria-pressed", String(swatch.dataset.colour === colour));
};
const store = (text) => {
  const area = field();
  draw();
  if (!area) return;
  last = write();
  area.value = last;
  area.dispatchEvent(new Event("input", { bubbles: true }));
  said.textContent = text || `${things.size} thing${things.size === 1 ? "" : "s"} on the tray.`;
};
const put = (cell, name, who) => {
  if (!things.has(cell) && things.size >= most) return void (said.textContent = `The model knows up to ${most} things. Take one away first.`);
  things.set(cell, { name, who });
  store();
};
const any = (list) => list[Math.floor(Math.random() * list.length)];
const deal = () => {
  const count = 2 + Math.floor(Math.random() * (most - 1)), names = [];
  while (names.length < count) {
    const partner = pairs[names.at(-1)];
    const next = partner && !names.includes(partner) && Math.random() < 0.75 ? partner : any(offered);
    if (!names.includes(next)) names.push(next);
  }
  const cells = [...Array(16).keys()].sort(() => Math.random() - 0.5);
  things = new Map(names.map((name, i) => [cells[i], { name, who: artist.value }]));
  colour = any(Object.keys(colours));
  store();
};

// Drag with a pointer, or click (and keys): object first, then cell; a filled cell gives its thing back.
let drag = null;
box.addEventListener("pointerdown", (event) => {
  const from = event.target.closest(".objects button, .board button");
  if (!from || event.button) return;
  const cell = from.closest(".board") ? [...board.children].indexOf(from) : -1;
  const thing = cell < 0 ? { name: from.dataset.name, who: artist.value } : things.get(cell);
  if (!thing) return;
  drag = { cell, thing, x: event.clientX, y: event.clientY, ghost: null };
});
document.addEventListener("pointermove", (event) => {
  if (!drag) return;
  if (!drag.ghost) {
    if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < 6 || event.pointerType === "touch") return;
    drag.ghost = document.createElement("span");
    drag.ghost.className = "drawing ghost";
    paint(drag.ghost, drag.thing.name, drag.thing.who);
    box.append(drag.ghost);
  }
  const rect = box.getBoundingClientRect();
  drag.ghost.style.left = `${event.clientX - rect.left - 22}px`;
  drag.ghost.style.top = `${event.clientY - rect.top - 22}px`;
});
let dropped = false;
document.addEventListener("pointerup", (event) => {
  const moved = drag;
  drag = null;
  if (!moved?.ghost) return;
  moved.ghost.remove();
  dropped = true;
  setTimeout(() => { dropped = false; }, 0);
  const target = document.elementFromPoint(event.clientX, event.clientY)?.closest(".board button");
  if (moved.cell >= 0) things.delete(moved.cell);
  if (target && box.contains(target)) put([...board.children].indexOf(target), moved.thing.name, moved.thing.who);
  else store();
});
box.addEventListener("click", (event) => {
  if (dropped) return;
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.name) {
    hand = hand === button.dataset.name ? null : button.dataset.name;
    said.textContent = hand ? `Now choose a cell for the ${hand}.` : "";
    draw();
  } else if (button.dataset.colour) { colour = button.dataset.colour; store(); }
  else if (button.dataset.do === "deal") deal();
  else if (button.dataset.do === "clear") { things.clear(); store("The tray is empty."); }
  else if (board.contains(button)) {
    const cell = [...board.children].indexOf(button);
    if (hand) put(cell, hand, artist.value);
    else if (things.delete(cell)) store();
    else said.textContent = "Choose an object below first.";
  }
});
artist.addEventListener("change", () => { for (const thing of things.values()) thing.who = artist.value; store(); });

const follow = setInterval(() => {
  if (!box.isConnected) return clearInterval(follow);
  const area = field();
  if (!area || area.value === last || drag) return;
  last = area.value;
  [things, colour] = read(last);
  const first = things.values().next().value;
  if (first && [...artist.options].some((option) => option.value === first.who)) artist.value = first.who;
  draw();
}, 250);
