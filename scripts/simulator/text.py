"""Simulated prose: an answer that quotes its prompt and says that no model wrote it."""

import random
import re

from .facts import CHARACTERS_PER_TOKEN

_OPENINGS = (
    "The short answer is that it depends on",
    "Most people who ask this begin with",
    "There are two ways to look at it, and both start from",
    "In practice the first thing to settle is",
    "A good place to begin is",
)
_MIDDLES = (
    "Once {word} is clear, the rest follows in small steps.",
    "It helps to write down what {word} means before going further.",
    "Compare {word} with what you expected, and keep the difference.",
    "Nothing about {word} has to be decided today.",
    "If {word} surprises you, measure it again.",
    "The usual mistake is to change {word} and its surroundings at once.",
)
_CLOSINGS = (
    "That is usually enough.",
    "From there, one careful look a week will do.",
    "Everything else can wait.",
)
_WORD = re.compile(r"[^\W\d_]{4,}")
_MAX_QUOTE = 400


def prose(prompt: str, model: str, rng: random.Random) -> str:
    """A few paragraphs about the prompt's own words; deterministic in the arguments."""
    words = _WORD.findall(prompt)[:200] or ["the question"]
    quoted = " ".join(prompt.split())
    if len(quoted) > _MAX_QUOTE:
        quoted = quoted[:_MAX_QUOTE].rstrip() + " …"
    sentences = [f"{rng.choice(_OPENINGS)} “{rng.choice(words)}”."]
    sentences += [
        rng.choice(_MIDDLES).format(word=f"“{rng.choice(words)}”") for _ in range(rng.randint(4, 10))
    ]
    sentences.append(rng.choice(_CLOSINGS))
    half = len(sentences) // 2
    return (
        f"[SIMULATED answer in the name of {model}; no model was called]\n\n"
        f"You wrote: {quoted}\n\n{' '.join(sentences[:half])}\n\n{' '.join(sentences[half:])}"
    )


def cut(text: str, stop_sequences: list[str], max_tokens: int | None) -> tuple[str, str]:
    """The text as far as the limits let it go, and its finish reason: STOP or MAX_TOKENS."""
    stops = [at for at in (text.find(stop) for stop in stop_sequences if stop) if at >= 0]
    if stops:
        text = text[: min(stops)]
    if max_tokens is not None and len(text) > max_tokens * CHARACTERS_PER_TOKEN:
        return text[: max_tokens * CHARACTERS_PER_TOKEN], "MAX_TOKENS"
    return text, "STOP"


def pieces(text: str, count: int) -> list[str]:
    """The text in at most `count` pieces, cut between words, for streaming."""
    words = re.findall(r"\S+\s*|\s+", text)
    if not words:
        return [""]
    per_piece = -(-len(words) // count)
    return ["".join(words[at : at + per_piece]) for at in range(0, len(words), per_piece)]
