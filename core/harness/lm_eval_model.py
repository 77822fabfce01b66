"""A checkpoint as lm-eval calls a model: what it asks goes through the evaluator's own answering."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import LM

from opendllm.core.decoding.options import DecoderOptions
from opendllm.core.decoding.settings import check_effect
from opendllm.core.evaluation.answering import Asked
from opendllm.core.foundation.option_errors import checked_options
from opendllm.core.foundation.ranks import world_size
from opendllm.core.foundation.sample_records import SampleKey
from opendllm.core.harness.model_options import open_model
from opendllm.core.scoring.lm_eval_instances import LmEvalChat, instance_setting, stop_strings
from opendllm.registries.benchmarks import (
    GeneratedText,
    GenerationRequest,
    LikelihoodRequest,
    Request,
    TextLikelihood,
)
from opendllm.registries.errors import UserError
from opendllm.registries.gaps import Gap

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_READ = frozenset({"until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k"})
"""What of a task's `generation_kwargs` has a meaning here."""
_NAMED = 5
_DEFAULT_DEVICE = "cuda:0"
"""What lm-eval's command asks for where `--device` says nothing; the two can't be told apart."""
_logger = logging.getLogger(__name__)


class OpenDllm(LM):
    """`--model opendllm --model_args checkpoint=PATH,...`.

    What `model_args` say holds for every task. Where they are silent, a task's own `max_gen_toks`, and its
    temperature, `top_p` and `top_k` where it samples, hold for what it asks.
    """

    def __init__(self, **model_args: Any) -> None:
        """Load the checkpoint.

        Args:
            model_args: the checkpoint, and how it is decoded: see `ModelOptions`, `DecoderOptions` and the
                sampler's own options. lm-eval adds `batch_size`, `max_batch_size` and `device`.

        Raises:
            UserError: see `open_model`; or a launcher has started several processes.
        """
        super().__init__()
        if world_size() > 1:
            raise UserError("one process takes all GPUs of the machine: start lm-eval without a launcher")
        given = {key: value for key, value in model_args.items() if value is not None}
        given.pop("max_batch_size", None)
        if str(given.get("batch_size", "")).startswith("auto"):
            given["batch_size"] = "auto"  # lm-eval's `auto:4` tries again as texts get shorter
        if given.get("device") == _DEFAULT_DEVICE and not torch.cuda.is_available():
            _logger.warning(f"torch sees no GPU, so the CPU is taken in place of {_DEFAULT_DEVICE}")
            given["device"] = "cpu"
        self._model = open_model(given)
        replica = self._model.asked.replicas[0]
        self._chat = LmEvalChat(self._model.asked.chat_template())
        self._tokenizer = replica.tokenizer
        self._in_template = False
        self._rendered: set[str] = set()

    @property
    def tokenizer_name(self) -> str:
        """Of the prompts' cache; asked for where they go through the chat template, and only there."""
        self._in_template = True
        return str(self._model.about["checkpoint"]).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The checkpoint's own.

        Raises:
            UserError: another one is asked for by name.
        """
        if isinstance(chat_template, str):
            raise UserError(
                f"--apply_chat_template {chat_template}: a checkpoint has one template, without a name"
            )
        return str(self._tokenizer.chat_template or "") if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as the text that the model was trained on.

        Raises:
            UserError: the checkpoint has no chat template, or it fails.
        """
        text = self._chat(chat_history, add_generation_prompt)
        self._rendered.add(text)
        return text

    def get_model_info(self) -> dict[str, Any]:
        """For lm-eval's results."""
        return {"opendllm": dict(self._model.about)}

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of each continuation, given its context; of a diffusion model its ELBO.

        Raises:
            UserError: a text has no likelihood.
        """
        templated = self._are_templated(requests)
        masks = self._model.asked.replicas[0].lm.noise.destination == "mask"
        asked: dict[SampleKey, Request] = {}
        for key, instance in _keyed(requests):
            # Which of several choices is likeliest doesn't hang on what the model would write by itself.
            greedy = masks or not key[1].startswith("choice-")
            context, text = instance.args[:2]
            asked[key] = LikelihoodRequest(key[0], text, key[1], context, greedy, templated)
        return [(found.log_likelihood, bool(found.greedy)) for found in self._likelihoods(asked)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Of each whole text, window by window.

        Raises:
            UserError: see `loglikelihood`.
        """
        asked: dict[SampleKey, Request] = {
            key: LikelihoodRequest(key[0], instance.args[0], key[1], "") for key, instance in _keyed(requests)
        }
        return [found.log_likelihood for found in self._likelihoods(asked)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the decoder writes, cut at the first of `until`.

        A prompt that can't be put to the model is answered by an empty text, and named in a warning.
        """
        templated = self._are_templated(requests)
        keyed = list(_keyed(requests))
        self._warn_of_unread(keyed)
        asked: dict[SampleKey, GenerationRequest] = {}
        by_options: dict[str, tuple[Asked, list[SampleKey]]] = {}
        for key, instance in keyed:
            context, settings = instance.args[:2]
            gap = Gap(context, length=self._length(settings), templated=templated)
            asked[key] = GenerationRequest(key[0], gap, setting=key[1], stop=stop_strings(settings))
            as_wished = self._as_wished(settings)
            by_options.setdefault(as_wished.options.model_dump_json(), (as_wished, []))[1].append(key)
        texts: dict[SampleKey, str] = {}
        unfit: dict[SampleKey, str] = {}
        for as_wished, keys in by_options.values():
            of_these: dict[SampleKey, Request] = {key: asked[key] for key in keys}
            refused = as_wished.unanswerable(of_these, self._model.longest)
            unfit |= refused
            rest = {key: request for key, request in of_these.items() if key not in refused}
            for record in as_wished.answer_all(rest, self._model.longest):
                assert isinstance(record.answer, GeneratedText)
                texts[record.key] = record.answer.text
        if unfit:
            named = "; ".join(f"{key[0]}: {reason}" for key, reason in list(unfit.items())[:_NAMED])
            more = f"; and {len(unfit) - _NAMED} more" if len(unfit) > _NAMED else ""
            _logger.warning(
                f"{len(unfit)} of {len(asked)} prompts can't be asked, and have empty answers: {named}{more}"
            )
        return [texts.get(key, "") for key, _ in keyed]

    def _likelihoods(self, asked: dict[SampleKey, Request]) -> list[TextLikelihood]:
        for key, reason in self._model.asked.unanswerable(asked, self._model.longest).items():
            raise UserError(f"{key[0]} can't be asked: {reason}")
        found = {
            record.key: record.answer for record in self._model.asked.answer_all(asked, self._model.longest)
        }
        answers = [found[key] for key in asked]
        return [answer for answer in answers if isinstance(answer, TextLikelihood)]

    def _length(self, settings: Mapping[str, Any]) -> int | None:
        """How much a task wants written; None for `max_new_tokens`, where the user has said that.

        Raises:
            UserError: it wants nothing.
        """
        wanted = settings.get("max_gen_toks", settings.get("max_new_tokens"))
        if wanted is None or "max_new_tokens" in self._model.said:
            return None
        if not isinstance(wanted, int) or wanted < 1:
            raise UserError(f"a task's max_gen_toks is {wanted!r}: it should be a whole number from 1 on")
        return wanted

    def _as_wished(self, settings: Mapping[str, Any]) -> Asked:
        """The model, decoded as a task that samples wants it where the user hasn't said how.

        Raises:
            UserError: the decoder can't, or the sampler has no use for it.
        """
        asked = self._model.asked
        samples = settings.get("do_sample", bool(settings.get("temperature")))
        if not samples or "temperature" in self._model.said:
            return asked
        wished = {"temperature": float(settings.get("temperature") or 1.0)}
        for name, none in (("top_p", 1.0), ("top_k", 0)):
            if name in settings and name not in self._model.said and settings[name] not in (None, none):
                wished[name] = settings[name]
        options = checked_options(DecoderOptions, {**asked.options.model_dump(), **wished})
        check_effect(options, self._model.sampler)
        return replace(asked, options=options)

    def _are_templated(self, requests: Sequence[Instance]) -> bool:
        """Whether these contexts come out of the chat template: all do, or none.

        Raises:
            UserError: they come out of lm-eval's cache, which doesn't say.
        """
        templated = any(instance.args[0] in self._rendered for instance in requests)
        if self._in_template and not templated and requests:
            raise UserError(
                "prompts of --cache_requests can't be told from texts that only look like a chat: leave it "
                "out beside --apply_chat_template"
            )
        self._in_template = False
        return templated

    def _warn_of_unread(self, keyed: Sequence[tuple[SampleKey, Instance]]) -> None:
        names = {name for _, instance in keyed for name in instance.args[1]} - _READ
        if names:
            _logger.warning(f"left out of generation_kwargs, since no decoder here knows it: {sorted(names)}")


def _keyed(requests: Sequence[Instance]) -> Iterator[tuple[SampleKey, Instance]]:
    """Each request with the key that the benchmark `lm-eval` gives it, of which its seed is made.

    lm-eval doesn't say whether a likelihood is one of several choices: it is where its document has another.
    """
    several = {(instance.task_name, instance.doc_id) for instance in requests if instance.idx}
    seen: Counter[tuple[Any, ...]] = Counter()
    for instance in requests:
        of_document = (instance.task_name, instance.doc_id)
        place = (*of_document, instance.idx)
        choice = instance.idx if of_document in several else None
        setting = instance_setting(choice, seen[place], instance.repeats or 1)
        seen[place] += 1
        yield (f"{instance.task_name}/{instance.doc_id}", setting, 0), instance
