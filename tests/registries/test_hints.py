"""Hints in error messages."""

from __future__ import annotations

from opendllm.registries.suggestions import did_you_mean


def test_a_name_of_two_letters_with_one_wrong_is_suggested() -> None:
    assert did_you_mean("p3", ["p2", "entropy"]) == "did you mean 'p2'?"


def test_a_name_like_no_other_gets_the_list() -> None:
    assert did_you_mean("zz", ["p2", "entropy"]) == "known: entropy, p2"


def test_a_name_of_the_published_code_suggests_what_it_is_here() -> None:
    """The nearest name would be another option's."""
    known = ["block_length", "max_new_tokens", "steps"]
    assert did_you_mean("gen_length", known) == "did you mean 'max_new_tokens'?"
    assert did_you_mean("diffusion_steps", known) == "did you mean 'steps'?"
    assert did_you_mean("gen_length", ["block_length"]) == "did you mean 'block_length'?"
