"""What the page says to a reader who does not know the field."""

from ec_jax.evaluation import indicators, verdict

# What a verdict means, in a sentence; the rules are in ec_jax/evaluation/verdict.py.
VERDICTS = {
    verdict.ERASED: "The model no longer recognises what it was to forget, its last features have "
    "left what they were at least half as far as a network's that never saw it, and the rest still "
    "works.",
    verdict.SUPERFICIAL: "The model no longer names what it was to forget, but by what is measured "
    "of its inner features, or by a part of that, they have not left what they were half as far as "
    "a network's that never saw it: the knowledge is likely hidden, not gone.",
    verdict.DAMAGED: "The model lost more than it was to forget. A damaged network forgets "
    "everything, so nothing else here should be read as success.",
    verdict.NOT_FORGOTTEN: "The model still recognises what it was to forget, better than a "
    "network that never saw it.",
}
# The same without an oracle, where the reason for it cannot be a comparison with one.
VERDICTS_ALONE = {
    verdict.ERASED: "The model no longer recognises what it was to forget, its last features are "
    "no longer those it had before, and the rest still works.",
    verdict.SUPERFICIAL: "The model no longer names what it was to forget, but its last features "
    "are almost those it had before: the knowledge is likely hidden, not gone.",
    verdict.DAMAGED: VERDICTS[verdict.DAMAGED],
    verdict.NOT_FORGOTTEN: "The model still recognises what it was to forget.",
}
NO_VERDICT = "Too little was measured to say whether anything was erased."

MODELS = {
    "original": "The network before unlearning, trained on everything.",
    "oracle": "The same network trained anew without the images to be forgotten. It shows what "
    "having never seen them looks like, and is the target of every number.",
    "unlearned": "The original after unlearning: what this page judges.",
}

# The first part of a key of metrics.json: name and meaning.
METRICS = {
    "accuracy": (
        "Accuracy",
        "Share of images whose class the model names correctly. Test images were not trained on.",
    ),
    "agreement": (
        "Agreement with the oracle",
        "Share of images that the model gives the same class as the oracle does, right or wrong. "
        "Higher is better, but even two oracles trained from different seeds do not reach 100.",
    ),
    "cka_to_original": (
        "CKA to the original",
        "How similar a stage's features of the same images are to the original's: 1 the same up "
        "to rotation and scale, 0 nothing in common. On images to be forgotten it should fall as "
        "far as the oracle's; on the others it should stay about as high as the oracle's.",
    ),
    "cka_to_oracle": (
        "CKA to the oracle",
        "The same similarity to the oracle's features. Higher is better, but even two oracles "
        "trained from different seeds do not reach 1.",
    ),
    "knn": (
        "k-NN accuracy",
        "Share of images whose class the nearest training images, by the features alone, give "
        "correctly: what the features know, whatever the output says.",
    ),
    "probe": (
        "Probe accuracy",
        "Accuracy of a new linear output layer trained, with all classes, on the model's features: "
        "what could be read from them with little effort.",
    ),
    "variance": (
        "Feature variance",
        "How widely the features of different images spread. Near 0 they have collapsed, and "
        "the other numbers mean nothing.",
    ),
    "misalignment": (
        "Misalignment",
        "How much better the features name forgotten images than the model's own output does. Near "
        "100 only the output forgot. The oracle's is high, too: it has no output for them.",
    ),
    "mia": (
        "Membership inference",
        "Share of the forgotten training images that an attack takes for never trained on.",
    ),
    "rus": (
        "RUS",
        "Representation unlearning score: forgetting and keeping by CKA at the last stage, as one "
        "number from 0 to 1 that is high only where both are.",
    ),
    "gap": (
        "Gap to the oracle",
        "Mean absolute difference to the oracle, over the accuracies (logit) and over CKA, k-NN "
        "and probe of all stages (representation). 0 is the target.",
    ),
    "closeness": (
        "Closeness",
        "The mean of CKA, on images to be forgotten, over all stages but the first, in which two "
        "networks differ by their initial weights as much as by what they learned. To the oracle "
        "higher is better; to the original it should fall as far as the oracle's.",
    ),
    "recovery": (
        "Recovery",
        "Accuracy on images to be forgotten after a little training on them again. What was only "
        "hidden comes back faster than the oracle learns it.",
    ),
    "idi": (
        "IDI",
        "Information difference index: how much more than the oracle's the features tell forgotten "
        "from kept images, relative to the original. 0 is the oracle, 1 the original.",
    ),
}

GLOSSARY = {
    "Forget set": "The images whose class is to be forgotten.",
    "Retain set": "All other images. What the model knows of them should stay.",
    "Oracle": "A network trained anew without the forget set: the best that unlearning can reach, "
    "at the full cost of training. The target is its number, not zero.",
    "Stage": "A part of the network, counted from the input. Each turns the features of the one "
    "before it into new ones; the last feeds the output.",
    "Features": "The numbers with which a stage describes an image.",
    "Logits": "The network's output: one number a class, the largest of which is its answer.",
    "CKA": "Centred kernel alignment, a similarity of two sets of features of the same images, "
    "from 0 to 1.",
    "k-NN": "Nearest neighbours: an image gets the class of the training images whose features "
    "are most similar.",
    "Probe": "A new linear output layer trained on features that stay as they are.",
    "Recovery": "How fast forgotten knowledge returns when it is trained again.",
    "Membership inference": "An attack that guesses from a model's confidence whether it was "
    "trained on an image.",
    "Gap": "The mean difference between a model's numbers and the oracle's.",
}

# Where samples are forgotten: their class stays, and with it what describes it.
VERDICTS_OF_SAMPLES = {
    verdict.ERASED: "The model answers for the images as if it had never seen them, and an attack "
    "that tells training images from others is led as far astray as by the oracle.",
    verdict.SUPERFICIAL: "The model answers for the images as if it had never seen them, but an "
    "attack that tells training images from others still knows most of them.",
    verdict.NOT_FORGOTTEN: "The model is more often right on the images to be forgotten than a "
    "network that never saw them.",
}
MOVED_MEMBERSHIP = "How far membership inference left the original's answers, of the oracle's way"

SPLITS = {
    "forget_train": "training images to be forgotten",
    "forget_test": "test images to be forgotten",
    "retain_train": "training images to be kept",
    "retain_test": "test images to be kept",
    "earlier_train": "training images forgotten before",
    "earlier_test": "test images forgotten before",
}

FAMILIES = {
    indicators.SIMILARITY: "by similarity",
    indicators.SEPARABILITY: "by how well they tell the forgotten classes apart",
    indicators.MEMBERSHIP: "by the images that are taken for trained on",
}

# What each limit of the verdict is compared with, and how it is met.
CHECKS = {
    "retain_loss": ("Accuracy lost on images to be kept", "at most"),
    "variance_share": ("Spread of the last features, as a share of the reference's", "at least"),
    "forget_loss": ("Accuracy lost on images to be forgotten, of the oracle's", "at most"),
    "forget_excess": ("Accuracy on images to be forgotten, above the target's", "at most"),
    "moved_share": ("How far the features left the original's, of the oracle's way", "at least"),
    "similarity": ("Similarity of the last features to the original's (CKA)", "below"),
}
