"""The loss of an LM head, chunk by chunk: no tensor has tokens times vocabulary numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from opendllm.core.networks import fused_slopes
from opendllm.core.networks.logit_chunks import rows_at_once
from opendllm.registries.backbones import DistributionLoss, JointLoss, LikelihoodLoss, LossPart


class ScoringHead(nn.Linear):
    """A linear LM head that can answer with a loss instead of logits.

    Both happen in its own forward, since that is where DeepSpeed gathers its weight under ZeRO 3.
    """

    def forward(
        self, hidden: Tensor, targets: Tensor | None = None, loss_part: LossPart | None = None
    ) -> Tensor:
        """Logits [..., V] of hidden states [..., D]; with targets [N] each one's negative log-likelihood, [N]
        float32, of [N, D]; with a loss besides, that loss."""
        if targets is None:
            return linear(hidden, self.weight, self.bias)
        if loss_part is None:
            logits_of = partial(linear, weight=self.weight, bias=self.bias)
            return _in_chunks(logits_of, self.out_features, (hidden, targets))
        if isinstance(loss_part, JointLoss):
            return self._joint_loss(guided(hidden, loss_part.guidance_scale), targets, loss_part)
        if isinstance(loss_part, DistributionLoss) and not torch.is_grad_enabled():
            chunks = _logits_of_chunks(hidden, self.weight, self.bias)
            return torch.stack(
                [hidden.new_zeros((), dtype=torch.float64)]
                + [loss_part.of(logits, chunk).double() for chunk, logits in chunks]
            ).sum()
        loss: Tensor = _LinearLoss.apply(hidden, targets, self.weight, self.bias, loss_part)
        return loss

    def _joint_loss(self, hidden: Tensor, targets: Tensor, loss_part: JointLoss) -> Tensor:
        """Of [n, D], in two rounds: all likelihoods and the loss's slope for each, then its gradients.

        Each likelihood is the same number whether gradients are wanted or not: a policy's ratio to itself
        is exactly 1.
        """
        with torch.no_grad():
            chunks = _logits_of_chunks(hidden, self.weight, self.bias)
            parts = [_likelihoods(logits, targets[chunk])[0] for chunk, logits in chunks]
            nll = torch.cat([hidden.new_zeros(0, dtype=torch.float32), *parts])
        if not torch.is_grad_enabled():
            return loss_part.of(nll)
        loss = loss_part.of(nll.requires_grad_())
        (slope,) = torch.autograd.grad(loss, nll)
        straight: Tensor = _LinearLoss.apply(
            hidden, targets, self.weight, self.bias, lambda nll, chunk: (slope[chunk] * nll).sum()
        )
        return loss.detach() + (straight - straight.detach())


def guided(answers: Tensor, guidance_scale: float) -> Tensor:
    """[n, D] of [2n, D]: classifier-free guidance from an answer and the same without its prompt.

    Logits are linear in the hidden states of a linear head, so that it is guided before as well as after.

    Args:
        answers: hidden states or logits.
        guidance_scale: 0 leaves [n, D] as they are.
    """
    if not guidance_scale:
        return answers
    of_prompt, without = answers.float().chunk(2)
    return (without + (1 + guidance_scale) * (of_prompt - without)).to(answers.dtype)


def let_score(head: nn.Module) -> None:
    """Turn a plain linear layer into a `ScoringHead` where it stands, weights and all."""
    if type(head) is nn.Linear:
        head.__class__ = ScoringHead


def token_losses(head: nn.Module, hidden: Tensor, targets: Tensor, guidance_scale: float = 0.0) -> Tensor:
    """Each token's negative log-likelihood under `head`: [N] float32, nats.

    Where gradients are wanted, the backward pass computes each chunk's logits once more.

    Args:
        head: from hidden states to logits.
        hidden: [N, D]; with guidance [2N, D].
        targets: [N] int64.
        guidance_scale: see `JointLoss`.
    """
    if _scores_itself(head) and not guidance_scale and not torch.is_grad_enabled():
        # Called once, however many targets this process has: under ZeRO 3 all gather its weight together.
        losses: Tensor = head(hidden, targets)
        return losses
    return _in_chunks(head, getattr(head, "out_features", 1 << 17), (hidden, targets), guidance_scale)


def _in_chunks(
    head: Callable[[Tensor], Tensor],
    vocabulary: int,
    scored: tuple[Tensor, Tensor],
    guidance_scale: float = 0.0,
) -> Tensor:
    """`token_losses` of (hidden, targets)."""
    hidden, targets = scored
    if not len(hidden):
        return _plain(head, hidden, targets)
    count = len(targets)
    of_prompt, without = hidden[:count], hidden[count:]
    chunks = [
        (
            torch.cat([of_prompt[chunk], without[chunk]]) if guidance_scale else hidden[chunk],
            targets[chunk],
            guidance_scale,
        )
        for chunk in _chunks(targets, vocabulary)
    ]
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(_plain, head, *chunk, use_reentrant=False) for chunk in chunks])
    return torch.cat([_plain(head, *chunk) for chunk in chunks])


# Each batch has another number of scored tokens, for which a compiled one would be compiled anew.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def summed_loss(head: nn.Module, hidden: Tensor, targets: Tensor, loss_part: LossPart) -> Tensor:
    """The sum of `loss_part` over all tokens: a scalar.

    A `ScoringHead` works out each chunk's gradient while its logits are there, so that they are
    computed once (the way of Liger-Kernel's fused linear cross-entropy, arXiv:2410.10989).

    Args:
        head: from hidden states to logits.
        hidden: [N, D].
        targets: [N] int64.
        loss_part: from the negative log-likelihoods, or the logits, of a run of tokens to their share of the
            loss.
    """
    if isinstance(loss_part, JointLoss) and loss_part.guidance_scale:
        targets = targets[: len(targets) // 2]
    # A distribution's without gradients, too: its own chunks would be as many as this rank's positions ask.
    if _scores_itself(head) and (torch.is_grad_enabled() or not callable(loss_part)):
        loss: Tensor = head(hidden, targets, loss_part)
        return loss
    if isinstance(loss_part, DistributionLoss):
        return _distribution_loss(head, hidden, loss_part)
    if isinstance(loss_part, JointLoss):
        return loss_part.of(token_losses(head, hidden, targets, loss_part.guidance_scale))
    return loss_part(token_losses(head, hidden, targets), slice(0, len(targets)))


def _distribution_loss(head: nn.Module, hidden: Tensor, loss_part: DistributionLoss) -> Tensor:
    """As `summed_loss`; where gradients are wanted, each chunk's logits are computed once more."""

    def of_chunk(states: Tensor, start: int) -> Tensor:
        return loss_part.of(head(states).float(), slice(start, start + len(states)))

    chunks = _chunks(hidden, getattr(head, "out_features", 1 << 17)) or [slice(0, 0)]
    losses = [
        checkpoint(of_chunk, hidden[chunk], chunk.start, use_reentrant=False)
        if torch.is_grad_enabled()
        else of_chunk(hidden[chunk], chunk.start)
        for chunk in chunks
    ]
    return torch.stack([loss.double() for loss in losses]).sum()


def _plain(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, guidance_scale: float = 0.0
) -> Tensor:
    return cross_entropy(guided(head(hidden), guidance_scale).float(), targets, reduction="none")


def _scores_itself(head: nn.Module) -> bool:
    """Nothing stands in for its forward (accelerate), and its weight is no packed 8-bit one."""
    return isinstance(head, ScoringHead) and type(head.weight) is nn.Parameter and "forward" not in vars(head)


def _chunks(positions: Tensor, vocabulary: int, fused: bool = False) -> list[slice]:
    rows = rows_at_once(vocabulary, positions.device.type, fused)
    return [slice(start, min(start + rows, len(positions))) for start in range(0, len(positions), rows)]


class _LinearLoss(torch.autograd.Function):
    """sum loss_part(linear(hidden, weight, bias)), its gradients worked out on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        loss_part: LikelihoodLoss | DistributionLoss,
    ) -> Tensor:
        for_hidden, _, for_weight, for_bias, _ = ctx.needs_input_grad
        # Sums over many chunks are kept in float32, whatever the weights are in.
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if for_bias and bias is not None else None
        losses = [hidden.new_zeros((), dtype=torch.float64)]
        fused = fused_slopes.serve(hidden) and not isinstance(loss_part, DistributionLoss)
        for chunk, logits in _logits_of_chunks(hidden, weight, bias, fused):
            if isinstance(loss_part, DistributionLoss):
                loss, d_logits = _distribution_slopes(logits, chunk, loss_part)
            else:
                slopes = fused_slopes.likelihood_slopes if fused else _likelihood_slopes
                loss, d_logits = slopes(logits, targets[chunk], chunk, loss_part)
            losses.append(loss.detach().double())
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            narrow = d_logits.to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(narrow, weight, out=d_hidden[chunk])
            if d_weight is not None and narrow.dtype == torch.float32:
                d_weight.addmm_(narrow.T, hidden[chunk])
            elif d_weight is not None and narrow.is_cuda:  # its products are added up in float32
                torch.addmm(d_weight, narrow.T, hidden[chunk], out_dtype=torch.float32, out=d_weight)
            elif d_weight is not None:
                d_weight += narrow.T @ hidden[chunk]
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return torch.stack(losses).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            None if gradient is None else gradient.mul_(scale.to(gradient.dtype)).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        del ctx.gradients  # scaled in place: a second backward pass has nothing to start from
        return scaled[0], None, scaled[1], scaled[2], None


def _likelihood_slopes(
    logits: Tensor, targets: Tensor, chunk: slice, loss_part: LikelihoodLoss
) -> tuple[Tensor, Tensor]:
    """(loss, its gradient for the logits, which it overwrites) of a chunk's cross-entropies."""
    nll, total = _likelihoods(logits, targets)
    with torch.enable_grad():
        loss = loss_part(nll.requires_grad_(), chunk)
    (slope,) = torch.autograd.grad(loss, nll)
    d_logits = logits.mul_((slope / total)[:, None])
    return loss, d_logits.scatter_add_(1, targets[:, None], -slope[:, None])


def _likelihoods(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """[n] each: negative log-likelihoods, and the sum of what is left in `logits`, their exponentials."""
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    largest = logits.amax(-1)
    total = logits.sub_(largest[:, None]).exp_().sum(-1)
    return total.log() + largest - chosen, total


def _distribution_slopes(logits: Tensor, chunk: slice, loss_part: DistributionLoss) -> tuple[Tensor, Tensor]:
    """(loss, its gradient for the logits) of a chunk's distributions."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        loss = loss_part.of(logits, chunk)
    (slope,) = torch.autograd.grad(loss, logits)
    return loss, slope


def _logits_of_chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, fused: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """(rows, their logits in float32, or as they are where fused, to be overwritten), all in one buffer."""
    chunks = _chunks(hidden, len(weight), fused)
    buffer = hidden.new_empty(chunks[0].stop if chunks else 0, len(weight))
    for chunk in chunks:
        logits = torch.mm(hidden[chunk], weight.T, out=buffer[: chunk.stop - chunk.start])
        logits = logits if bias is None else logits.add_(bias)
        yield chunk, logits if fused else logits.float()
