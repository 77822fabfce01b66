"""What somebody may have meant by a name that there isn't."""

from __future__ import annotations

import difflib

PUBLISHED_NAMES = {
    "gen_length": "max_new_tokens",
    "gen_len": "max_new_tokens",
    "diffusion_steps": "steps",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "nucleus_p": "top_p",
    "alg": "sampler",
    "lr": "learning_rate",
}
"""What the published code calls things whose names here are nearest to something else's."""


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint that completes an error message: the nearest known names, or all of them."""
    same = [PUBLISHED_NAMES[name]] if PUBLISHED_NAMES.get(name) in known else []
    near = same or difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    # In a name of two letters one wrong letter is half of it.
    near = near or [other for other in known if len(name) == len(other) == 2 and other[0] == name[0]]
    if near:
        return f"did you mean {' or '.join(repr(match) for match in near)}?"
    return f"known: {', '.join(sorted(known)) or 'none'}"
