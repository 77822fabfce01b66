"""What the server adds to the decoder's own time, and when a streamed answer's first text comes.

    python benchmarks/serving.py [--checkpoint FOLDER] [--device cuda] [--rounds 5] [--requests 8]

A round decodes as many texts side by side as there are requests in parallel: in this process, and then by
the official openai client from `platform serve`, in turns, so that load hits both. The medians' ratio is
what the server adds. Then one streamed answer that is written in blocks: the time to its first piece beside
the time that the decoder takes for the first block.

Without --checkpoint the model is `decoding.py`'s small one of random weights, with a tokenizer of bytes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import torch
from decoding_models import random_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opendllm.core import load
from opendllm.core.decoding.row_pool import RowPool, WaitingRow
from opendllm.core.decoding.text import row_to_write
from opendllm.core.language_model import LanguageModel
from opendllm.registries.gaps import Gap

PROMPT = Path(statistics.__file__).read_text(encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128, help="characters")
    parser.add_argument("--new", type=int, default=32, help="tokens")
    parser.add_argument("--sampler", default="p2")
    parser.add_argument("--block-length", type=int, default=16, help="of the streamed answer")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.checkpoint or _random_checkpoint(Path(made) / "random")
        model = load(folder, device=arguments.device)
        prompts = [PROMPT[at * 500 :][: arguments.prompt] for at in range(arguments.requests)]
        with (
            _server(folder, arguments.device, arguments.requests) as url,
            openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
            ThreadPoolExecutor(arguments.requests) as clients,
        ):
            [name] = [each.id for each in client.models.list()]

            def ask(prompt: str) -> str:
                return (
                    client.completions.create(
                        model=name,
                        prompt=prompt,
                        max_tokens=arguments.new,
                        seed=0,
                        extra_body={"sampler": arguments.sampler},
                    )
                    .choices[0]
                    .text
                )

            def alone() -> None:
                model.generate(
                    prompts,
                    sampler=arguments.sampler,
                    batch_size=len(prompts),
                    max_new_tokens=arguments.new,
                )

            def served() -> None:
                list(clients.map(ask, prompts))

            _compare(arguments.rounds, arguments.requests, alone, served)
            _first_text(arguments, model, client, name, prompts[0])


def _compare(rounds: int, requests: int, alone: Callable[[], None], served: Callable[[], None]) -> None:
    alone()
    served()
    seconds = [(_seconds(alone), _seconds(served)) for _ in range(rounds)]
    own, whole = (statistics.median(each) for each in zip(*seconds, strict=True))
    print(f"{requests} texts side by side, median of {rounds} rounds")
    print(f"  decoder alone {own:8.3f} s   (from {min(each[0] for each in seconds):.3f})")
    print(f"  served        {whole:8.3f} s   (from {min(each[1] for each in seconds):.3f})")
    print(f"  the server adds {whole / own - 1:+.1%}")


def _first_text(
    arguments: argparse.Namespace, model: LanguageModel, client: openai.OpenAI, name: str, prompt: str
) -> None:
    options = {"sampler": arguments.sampler, "block_length": arguments.block_length}

    def first_piece() -> None:
        stream = client.completions.create(
            model=name, prompt=prompt, max_tokens=arguments.new, seed=0, stream=True, extra_body=options
        )
        while not next(iter(stream)).choices[0].text:
            pass
        stream.close()

    def first_block() -> None:
        sampler, decoder = model.build_sampler(arguments.sampler, {"block_length": arguments.block_length})
        row = row_to_write(model.lm, model.codec, Gap(prompt, length=arguments.new), decoder, "")
        waiting = [WaitingRow(0, row.ids, 0)]
        with torch.no_grad():
            pool = RowPool(model.lm, waiting, len(row.ids), sampler, decoder, padded=False)
            while not pool.settled({0})[0]:
                pool.take_step()

    first_piece()
    first_block()
    pairs = [(_seconds(first_block), _seconds(first_piece)) for _ in range(arguments.rounds)]
    block, piece = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"a streamed answer in blocks of {arguments.block_length}")
    print(f"  the decoder's first block {block:8.3f} s")
    print(f"  the first piece of text   {piece:8.3f} s   ({piece - block:+.3f} s)")


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _random_checkpoint(folder: Path) -> Path:
    folder.mkdir()
    lm: Any = random_model("cpu", "small", torch.float32).lm
    lm.save(folder, lm.module.state_dict())
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number + 1 for number, letter in enumerate(letters)}
    raw = Tokenizer(models.BPE({"</s>": 0, **vocabulary, "<M>": lm.mask_token_id}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["</s>", "<M>"])
    special: dict[str, Any] = {"eos_token": "</s>", "mask_token": "<M>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return folder


@contextmanager
def _server(folder: Path, device: str, rows: int) -> Iterator[str]:
    """The API's address."""
    command = ["serve", str(folder), "--port", "0", "--batch-size", str(rows), "--device", device]
    process = subprocess.Popen(
        [sys.executable, "-m", "opendllm.core", *command], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "API: " in line:
                yield line.partition("API: ")[2].split()[0]
                return
        raise SystemExit("the server didn't start")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
