// Moves through the stages of all ways at once: words, shares and the line in every small picture.
const bar = element.querySelector(".steps-bar"), input = bar.querySelector("input"), out = bar.querySelector("output");
const button = bar.querySelector("button");
const board = () => document.querySelector(`#${bar.dataset.board} .ways`);
let shown = "", playing = 0, stages = [];

const show = (place) => {
  const home = board();
  if (!home) return;
  const most = Number(input.max);
  for (const way of home.querySelectorAll("[data-way]")) {
    const course = stages[Number(way.dataset.way)], stage = course[Math.min(place, course.length - 1)];
    const fact = way.dataset.fact;
    if (fact !== undefined) {
      const [word, kind] = stage.said[Number(fact)], said = way.querySelector(".said");
      said.textContent = { true: "✓ ", lie: "✗ ", other: "· " }[kind] + word;
      said.className = `said ${kind}`;
      continue;
    }
    way.querySelector(".at").textContent = stage.at;
    way.querySelector("dd.truths").textContent = stage.truths;
    way.querySelector("dd.lies").textContent = stage.lies;
    way.querySelector("line.now")?.setAttribute("transform", `translate(${(100 * Math.min(place, course.length - 1)) / Math.max(course.length - 1, 1)} 0)`);
  }
  out.textContent = place >= most ? "the end" : (stages[0][Math.min(place, stages[0].length - 1)] || {}).at || "";
};
const stop = () => { clearInterval(playing); playing = 0; button.textContent = "▶ Play"; };
const play = () => {
  stop();
  let place = 0;
  input.value = 0; show(0);
  button.textContent = "■ Stop";
  playing = setInterval(() => {
    if (!bar.isConnected) return clearInterval(playing);
    input.value = ++place; show(place);
    if (place >= Number(input.max)) stop();
  }, 200);
};
button.addEventListener("click", () => (playing ? stop() : play()));
input.addEventListener("input", () => { stop(); show(Number(input.value)); });

const follow = setInterval(() => {
  if (!bar.isConnected) return clearInterval(follow);
  const home = board();
  bar.hidden = !home;
  if (!home || home.dataset.stages === shown) return;
  shown = home.dataset.stages;
  stages = JSON.parse(shown);
  input.max = Math.max(...stages.map((course) => course.length)) - 1;
  input.value = input.max;
  show(Number(input.max));
}, 200);
