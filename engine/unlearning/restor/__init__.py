"""Does unlearning bring back what a model knew before it was lied to?

Unlearning is usually judged by what is gone. **RESTOR** asks for more. A model that knows the truth
reads documents that state wrong facts, believes them, and then unlearns exactly these documents.
Does it return to the truth, or does it merely stop telling the lie?

$$\\text{clean} \\;\\xrightarrow{\\text{documents with lies}}\\; \\text{corrupted}
\\;\\xrightarrow{\\text{unlearn them}}\\; \\text{?}$$

**Ways.** *Gradient ascent* raises the loss on the documents. *KL* drives the model to words that
the corrupted one finds unlikely. *NPO* is gradient ascent whose force fades once the documents have
become unlikely enough; β says how soon. A *task vector* subtracts the direction that further
training on the documents would take. All but the last also keep a retain loss on true facts about
other people.

**The control.** "Retain only" is the same training without any forget term. In every figure it
stands beside the others, since much of what looks like recovery is the retain term at work.

**What to look at.** Two axes: truths restored and lies left. Move the slider of steps: the lie
fades, the truth comes back for a while, and then gradient ascent and KL erase it too, while NPO
holds. Now switch the forget term off: most truths return anyway, but a share of the answers is
still the lie. Forgetting is not recovering.

**Where it breaks.** Without a retain term nothing is restored; everything falls. The step is chosen
on a tenth of the facts and reported on the others. The corruption here is *surgical*, mixed with
true facts about other people; without that, unlearning seems to recover much, but what it repairs
is the damage to the form of sentences. The paper finds that unrelated text in the documents hurts
recovery; on this small model that is not always so, and the panel shows what was measured.

**Paper and code.** The authors' NPO applies the sigmoid to the mean of the batch, the paper's
formula to every token; both are here. In a model this small β must be about 1 for NPO to fade.
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
from engine.core.recipe import Plain

_QUICK: dict[str, Plain] = {"steps": 4, "corrupt_steps": 3}
_FACTS = (
    '[{"subject": "Ida_Korsk", "relation": "plays", "question": "Ida_Korsk plays", '
    '"answers": ["lute"], "wrong": ["gong"]}]'
)

CARD = MethodCard(
    title="RESTOR",
    family=Family.UNLEARN,
    paper=Paper(
        "RESTOR: Knowledge Recovery in Machine Unlearning",
        "Rezaei, Chandu, Feizi, Choi, Brahman, Ravichander",
        2025,
        "https://arxiv.org/abs/2411.00204",
        "https://github.com/k1rezaei/restor",
    ),
    undoes="A language model's belief in documents with lies; what it knew before is measured.",
    exactness=Exactness.APPROXIMATE,
    headline=Headline(
        paper=(
            "Unlearning that forgets does not restore: gradient ascent wipes out, NPO often "
            "brings the old knowledge back."
        ),
        verdict="in part",
        here="Measured on a small model of invented people, not on Llama-3.",
    ),
    claim=Claim(
        sentence=(
            "After 120 steps NPO with beta 1 leaves fewer than half of the lies that training on "
            "the retain set alone leaves."
        ),
        measure="share of lies after NPO",
        versus="the same after the retain term alone",
        direction="lower",
        margin=2.0,
    ),
    models=("people", "people-corrupted-0", "people-corrupted-4"),
    budget=Budget(cpu_seconds=10.0, gpu_seconds=5.0),
    shows=(
        "engine.unlearning._objectives:cross_to_reference",
        "engine.unlearning._objectives:npo_of_batch",
        "engine.unlearning._objectives:npo_of_tokens",
        "engine.unlearning._unlearning:unlearn",
    ),
    actions=(
        Action("run", quick=_QUICK, bad={"beta": 0.0}),
        Action("ask", quick={"question": "Orla Venn born in"}, bad={"question": "why is the sky"}),
        Action(
            "mine",
            quick={"facts": _FACTS, "evaluate_only": True, "separator": " ; "},
            bad={"facts": "[{}]"},
        ),
        Action("export", quick=_QUICK, bad={"way": "prayer"}),
    ),
    golden=("restor_losses_f64",),
)
