"""How models and the forget set are drawn, on every plot and page."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Style:
    """The look of one kind of mark.

    Attributes:
      light: its colour on white.
      dark: its colour on a dark page.
      marker: Matplotlib's name of its marker: o, s, ^ or D.
    """

    light: str
    dark: str
    marker: str


# Okabe-Ito: told apart with any colour vision; markers tell them apart in grey.
MODELS = {
    "original": Style("#555555", "#b8b8b8", "o"),
    "oracle": Style("#0072B2", "#56B4E9", "s"),
    "unlearned": Style("#D55E00", "#E69F00", "^"),
}
# Where models stand side by side, forgotten images and classes need a colour of their own.
FORGET = Style("#a8327e", "#ee9fce", "D")
