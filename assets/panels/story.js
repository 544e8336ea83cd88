// Plays the story of an answer: each word appears when it was said and is struck when it was taken back.
const bar = element.querySelector(".story-bar"), input = bar.querySelector("input"), out = bar.querySelector("output");
const button = bar.querySelector("button");
const home = () => document.querySelector("#" + bar.dataset.story);
let shown = null, playing = 0;  // each run draws an element of its own

const show = (step) => {
  const story = home()?.querySelector(".story");
  if (!story) return;
  const end = Number(story.dataset.steps), over = step >= end;
  for (const word of story.querySelectorAll("[data-born]")) {
    const born = Number(word.dataset.born), struck = Number(word.dataset.struck);
    word.hidden = !over && step < born;
    word.classList.toggle("still", struck > 0 && step < struck);
    word.classList.toggle("unsure", struck > 0 && step < struck && step >= Number(word.dataset.closed || struck));
  }
  out.textContent = over ? `${end} steps` : `step ${step} of ${end}`;
};
const stop = () => { clearInterval(playing); playing = 0; button.textContent = "▶ Replay"; };
const play = () => {
  const end = Number(input.max);
  stop();
  input.value = 0;
  show(0);
  button.textContent = "■ Stop";
  playing = setInterval(() => {
    if (!bar.isConnected) return clearInterval(playing);
    input.value = Number(input.value) + 1;
    show(Number(input.value));
    if (Number(input.value) >= end) stop();
  }, Math.max(40, Math.min(220, 9000 / Math.max(end, 1))));
};
button.addEventListener("click", () => (playing ? (stop(), input.value = input.max, show(Number(input.max))) : play()));
input.addEventListener("input", () => { stop(); show(Number(input.value)); });

const follow = setInterval(() => {
  if (!bar.isConnected) return clearInterval(follow);
  const story = home()?.querySelector(".story[data-final]");
  bar.hidden = !story;
  if (!story || story === shown) return;
  shown = story;
  input.max = story.dataset.steps;
  input.value = input.max;
  show(Number(input.max));
  if (!window.matchMedia("(prefers-reduced-motion: reduce)").matches) play();
}, 200);
