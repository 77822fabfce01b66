"""What of a manifest decides the trained weights: runs share a training, and go on, where it is the same."""

from __future__ import annotations

from typing import Any

_ANSWERS_OF_A_SERVER = ("endpoint", "model", "api", "extra_body")
"""Keys of a `model` that names a server which its answers depend on; the others say how it is reached."""
_NOT_TRAINED_FROM = ("micro_batch_size", "compile", "activation_checkpointing", "checkpoint", "trackers")
"""Keys of `train` that only say how the same weights are come by; a run may go on with others."""
_ADDED_LATER = frozenset({"add_bos_token", "eos_token", "load_balancing", "rl"})
"""Keys that earlier manifests lack: null means what was done before there was one, and the same digest."""


def _without_new_defaults(section: dict[str, Any] | None) -> dict[str, Any] | None:
    if section is None:
        return None
    return {key: value for key, value in section.items() if value is not None or key not in _ADDED_LATER}


def _learnt_from(rl: dict[str, Any]) -> dict[str, Any]:
    """What of a dumped `rl` section decides the trained weights."""
    content = {key: value for key, value in rl.items() if key not in ("held_out", "reward_seconds")}
    content["rewards"] = [
        {key: value for key, value in each.items() if key != "label"} for each in rl["rewards"]
    ]
    content["rollout"] = {key: value for key, value in rl["rollout"].items() if key != "batch_size"}
    content["reference"] = {key: value for key, value in rl["reference"].items() if key != "offload"}
    return content


def trained_from(manifest: dict[str, Any]) -> dict[str, Any]:
    """What of a dumped manifest decides the trained weights, but for float rounding."""
    content = {key: manifest.get(key) for key in ("model", "data", "train", "seed")}
    content["model"] = _without_new_defaults(content["model"])
    if content["model"] is not None and "endpoint" in content["model"]:
        content["model"] = {key: content["model"][key] for key in _ANSWERS_OF_A_SERVER}
        content["data"] = None  # which it has never seen
    if content["data"] is not None:  # what is only looked at decides nothing
        content["data"] = {key: value for key, value in content["data"].items() if key != "contamination"}
    if content["data"] is not None and content["data"].get("tokenizer") is not None:
        content["data"] = {
            **content["data"],
            "tokenizer": _without_new_defaults(content["data"]["tokenizer"]),
        }
    if content["train"] is not None:
        trained = {key: value for key, value in content["train"].items() if key not in _NOT_TRAINED_FROM}
        content["train"] = _without_new_defaults(trained)
        if content["train"].get("rl") is not None:
            content["train"]["rl"] = _learnt_from(content["train"]["rl"])
    return content
