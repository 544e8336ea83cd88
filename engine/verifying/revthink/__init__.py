"""A student that is also asked backward answers more questions forward.

A teacher turns every training question round. Of *it is mar, 4 later: which month?* it writes the
**forward reasoning** "mar + 4 = jul", a **backward question** *it ends in jul, 4 later: which
start?*, and the **backward reasoning** "jul − 4 = mar". What does not come back to a quantity of
the question is dropped: the **consistency filter**. A small student then learns three things of
each question in the same step,

$$L = \\tfrac13\\,[\\; l(S(Q), R_f) + l(S(Q, A), Q_b) + l(S(Q_b), R_b) \\;]$$

where $l$ is the cross-entropy of the target's tokens, a mean, so that long targets do not rule.
When it is tested it only answers Q: the backward part costs nothing then.

**Why it helps, seen in a small world.** There are 264 relations of one shift on the cycle of twelve
months. A third is never asked; of the rest a share is. The backward reasoning of one question is,
word for word, the forward reasoning of its inverse, "jul − 4 = mar". So look at the test relations
in three heaps: those whose *inverse* was asked, those whose way *around* the year was asked
("mar − 8 = jul", what answer augmentation teaches), and *new* ones of which no relative was asked.
A gain in the first heap alone is knowledge of fact families, not of arithmetic; and that is where
to expect it. Answer augmentation gains about as much in all, in the second heap. On the new heap
every method here stays at or below chance, 8 %.

**Equal budgets.** SFT, answer augmentation (a second correct chain per question) and RevThink start
from the same source questions and see the same number of sequences, so SFT passes over its
questions three times as often. The paper counts equal passes instead, where RevThink sees three
times as many sequences; the panel has both.

**How few questions will do.** The paper's RevThink does with a tenth of the questions what SFT does
with all. Measured here on days of the week, three seeds a point: RevThink lies above SFT at every
share from 10 to 100 %, but three seeds leave wide intervals, and only with all questions do they
part. All of it stays near what a guess would give, one in seven, and SFT and answer augmentation
stay below it: they answer what they have seen.

**Where paper and code part.** The paper gives the second objective Q alone, the code Q with its
answer; from Q alone a student would have to solve Q in silence, so we follow the code. The code
trains on prompt and padding too; the paper on targets only, and so do we ("official" does the
other). The paper's adapter has rank 32, the code's rank 16 on the query and value projections.

**Where it breaks.** With few steps it loses to SFT: three targets take longer than one. With wrong
chains and no filter the student learns what the teacher got wrong, both ways. Questions that cannot
be inverted (rounding, "at least", largest of) have several backward answers; the filter drops
them, and the keep rate says how many. A teacher too small for the task keeps next to nothing.
Two-step questions from nothing are only memorised by students this small.

*The students* are Llama networks of 0.2 million parameters, trained from nothing or with LoRA on
the shipped base, which is the SFT student: its adapters add the backward half afterwards. Their
figures say nothing about models of billions; in the paper's Table 1, Mistral-7B gains 7.2 points
over SFT.
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
    title="Reverse thinking (RevThink)",
    family=Family.VERIFY,
    paper=Paper(
        "Reverse Thinking Makes LLMs Stronger Reasoners",
        "Chen, Wang, Palangi, Han, Ebrahimi, Le, Perot, Mishra, Bansal, Lee, Pfister",
        2025,
        "https://arxiv.org/abs/2411.19865",
        "https://github.com/google-research/google-research/tree/master/revthink",
    ),
    undoes="A chain of reasoning: from the answer back to what the question told.",
    exactness=Exactness.APPROXIMATE,
    headline=Headline(
        paper=(
            "A student taught to think backwards as well answers better: 13.5 points over its own"
            " start, 6.8 over plain distillation."
        ),
        verdict="in part",
        here=(
            "Well above plain fine-tuning on the same questions. Against answer augmentation the "
            "gain is within the noise of this small world."
        ),
    ),
    claim=Claim(
        sentence=(
            "Asked half of the questions, students of RevThink answer at least 5 points more of "
            "the unasked relations than students of SFT that saw as many sequences."
        ),
        measure="test relations answered by RevThink",
        versus="by SFT",
        direction="higher",
        margin=0.05,
        by="difference",
    ),
    models=("revthink",),
    budget=Budget(cpu_seconds=6.0, gpu_seconds=3.0),
    shows=(
        "engine.verifying.revthink.objective:objective",
        "engine.verifying.revthink.objective:joint",
        "engine.verifying.revthink.augment:augment",
        "engine.verifying.revthink.arms:sequences",
        "engine.verifying.revthink.fleet:Fleet.advance",
        "engine.verifying.revthink.months:standing",
    ),
    actions=(
        Action("run", quick={"start": "mar", "shift": 4}, bad={"start": "noon"}),
        Action("augment", quick={"count": 6}, bad={"corrupt": 2.0}),
        Action(
            "train",
            quick={"world": "week", "fraction": 0.5, "steps": 6},
            bad={"arms": ["alchemy"]},
            on_model=False,
        ),
        Action("tune", quick={"steps": 3, "batch": 2}, bad={"rank": 0}),
    ),
    golden=("revthink_loss", "revthink_calendar", "revthink_extract"),
)
