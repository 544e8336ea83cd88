"""A model that describes a picture also says things that are not there: it has seen so many cats
with dogs that it says "and a dog" before it looks. REVERSE teaches it to notice, and to take it
back.

**Three more words.** In training every key phrase stands between marks: `<SPAN>` opens it, `</CN>`
closes a phrase that is grounded in the picture, `</UN>` one that is not. Half of the answers are
right throughout. The other half run right up to one wrong phrase, which is closed by `</UN>` and
ends the answer. The loss is the usual one, except that the words *inside* a wrong phrase have
none:

$$L = -\\sum_{t \\notin \\text{inside } \\langle SPAN\\rangle \\ldots \\langle /UN\\rangle}
\\log p(w_t \\mid w_{<t}, \\text{picture})$$

so the model learns to know a wrong phrase when it sees one, and not to say it.

**One more look.** When the model closes a phrase, its own probability of closing it with `</UN>`,

$$P(UN) = \\mathrm{softmax}(z_t)_{\\langle /UN\\rangle}$$

is read from the raw logits, whatever it then says. If P(UN) > tau, the phrase is taken back: the
text returns to just behind the last phrase that held, the temperature rises by 0.05, and the model
speaks again. Doubted phrases are named in the question as a hint. After K = 10 failures in a row
the text returns to its last full stop, and what is cut off joins the hint, each time anew. After
N = 50 attempts what stands is given as it is; of an open question, its whole sentences only.

**Taking back costs nothing.** The published code reads picture, question and text again for every
attempt. A transformer keeps what it has read in a cache, and a cache can be cut: the state after
cutting is the state of a model that never said the phrase. The panel measures this on every run.
On equal random numbers both engines say the same words, in float32 as in float64. One exception is
left: an answer whose marks do not pair up is thrown away whole there, and from that mark on here.

**How it is scored.** On a tray we know what lies there. CHAIR_i is the share of mentioned objects
that are not there, CHAIR_s the share of answers with at least one such, cover the share of the
objects there that are mentioned. A small tau lowers CHAIR and, in the end, cover: a model that
says nothing is never wrong. So the two are always shown together, and empty answers are counted.

**Where paper and code differ.** The temperature step is 0.1 in the text and 0.05 in the algorithm
and the code; we take 0.05. P(UN) is looked at when a phrase closes, as in the code, not at every
word. Their test is >, in the code, not >=. The published LLaVA code adds a sentence about false
premises to every hint; we add the hint alone. The code starts at temperature 1 for LLaVA, the
paper reports 0, and so do we. At 1, a setting, the small model says what it expects and not only
what it sees: it errs more often and goes back more often.

**What it has to beat.** *Refuse* says nothing of a doubted phrase, *truncate* ends before it: both
have less CHAIR than REVERSE at the same tau and less cover, as nothing comes in place of what goes.
So they are compared where they cover as much, and there too this small model errs less when it
simply refuses, at all but the smallest tau: what it says in place of a doubted phrase is often
wrong as well. The paper does not measure refusing. *Greedy*, without chance and taking nothing
back, is what temperature 0 begins with. *Contrast* counts against a word what the model would say
of a blank picture. *Right answers alone* is the same network, trained for ten minutes too, that
never saw a wrong phrase. Its P(UN) is mostly below one in a million, so there is nothing to go back
on, and it hallucinates more than its twin does with going back switched off: wrong phrases may
teach it to look as well. That one of the two took more steps in its ten minutes is not ruled out.

**Where it breaks.** The doubt is the model's own: it comes from the same eyes. In the dark it sees
a dog and is sure of it, and no tau helps. P(UN) of one model says nothing about another's: tau
must be found anew, which is what the calibration is for. The panel starts at tau = 0.1, found on
other trays than those of the claim. At 0.001 this model mostly gives up, and its answers hardly
name what is there. The paper finds no gain on yes/no questions.
"""

from engine.core.catalog import (
    Action,
    Budget,
    Claim,
    Exactness,
    Family,
    Headline,
    MethodCard,
    Paper,
)

CARD = MethodCard(
    title="Retrospective resampling (REVERSE)",
    family=Family.VERIFY,
    paper=Paper(
        "Generate, but Verify: Reducing Hallucination in Vision-Language Models with "
        "Retrospective Resampling",
        "Wu, Lee, Ge, Gonzalez, Darrell, Chan",
        2025,
        "https://arxiv.org/abs/2504.13169",
        "https://github.com/tsunghan-wu/reverse_vlm",
    ),
    undoes="A phrase that the model said of a picture and that is not in it.",
    exactness=Exactness.ROUND_OFF,
    headline=Headline(
        paper=(
            "Going back where the model doubts itself halves hallucinated objects (CHAIR-i 15.4 "
            "to 6.1 with LLaVA-1.5) at some cost in cover."
        ),
        verdict="in part",
        here=(
            "Fewer things that are not there, on trays never seen. Part of that is saying less: "
            "at equal cover plain refusing errs less, as the table in the panel shows."
        ),
    ),
    claim=Claim(
        sentence=(
            "Taking back what it doubts (tau = 0.01), the model names fewer things "
            "that are not there than the same model without going back."
        ),
        measure="CHAIR_i at tau = 0.01",
        versus="CHAIR_i of the same checkpoint, nothing taken back",
        direction="lower",
        margin=1.5,
        by="factor",
    ),
    models=("emoji-llava", "emoji-llava-right"),
    budget=Budget(cpu_seconds=4.0, gpu_seconds=3.0),
    shows=(
        "engine.verifying.retrospective_resampling.rollback:rollback",
        "engine.verifying.retrospective_resampling.rollback:_attempt",
        "engine.verifying.retrospective_resampling.official:official",
        "engine.verifying.retrospective_resampling.tags:masked_labels",
        "engine.models.language:Cursor",
    ),
    actions=(
        Action(
            "run",
            quick={"tray": "on blue; cat 5; rose 10", "noise": 0.4, "total": 12},
            bad={"tray": "on blue; unicorn 5"},
        ),
        Action(
            "curve",
            quick={"trays": 2, "taus": [1.0, 0.01], "total": 8},
            bad={"trays": 0},
        ),
        Action(
            "calibrate",
            quick={"labels": "phrase,p_un,grounded\na cat,0.01,yes\na dog,0.6,no\n"},
            bad={"labels": "phrase,p_un\na cat,0.01\n"},
        ),
    ),
    golden=(
        "reverse_loop_clean",
        "reverse_loop_one_fix",
        "reverse_loop_sentence_backtrack",
        "reverse_loop_giveup",
        "reverse_labels",
        "reverse_render",
    ),
)
