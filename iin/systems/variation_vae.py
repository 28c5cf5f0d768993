"""The autoencoder whose every latent does something of its own that one can see: variation predictability."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from iin.arguments import NonNegative, NonNegativeInt, Positive
from iin.distributed import rank
from iin.flows.base import at_least_single
from iin.losses import variation_loss
from iin.models import ConvVAE, PairRecogniser
from iin.models.gaussian import standard_normal
from iin.seeds import mix
from iin.systems.vae import VAE, Regulariser, Seen

__all__ = ["VariationVAE"]


class VariationVAE(VAE):
    """Trains a variational autoencoder, with any regulariser, to decode codes so that one sees which number changed.

    It minimises ``L + weight * CE``: ``L`` is the loss of `VAE`; ``CE`` the cross entropy of a recogniser that looks at
    the images of two codes, which differ in one number, and tells which one it is. Recogniser and autoencoder learn
    together; the encoder does not answer for ``CE``.

    The paper says that its term suits autoencoders too, but neither how nor how strong. Chosen here:

    * The first code is drawn from the prior (``source: prior``), as samples are. ``source: posterior`` takes that of an
      image of the batch, with its noise, so that the decoder is asked only where it also learns from images; in a trial
      on sprites it helped less.
    * One number of it is drawn anew from the prior (``change: redraw``), as the metric changes codes. The published
      change of a generator's code is a step of deviation 6, which leaves the range that a decoder knows;
      ``change: step`` adds a normal number of deviation ``epsilon`` instead.
    * The code is cut off from the encoder, so that the term cannot move codes to where they are told apart: it is
      about what numbers do in images.
    * The weight is in nats of an image's likelihood, which is a sum over pixels. At the published 0.01, beside an
      adversarial loss of about 1, nothing would happen here.

    Where the encoder leaves a number unused, the term asks the decoder to show it all the same, which costs likelihood.

    Logged: what `VAE` logs, where ``regulariser`` has the term in it; ``vp`` (``CE``), and ``accuracy``, the share of
    pairs of which the number is told.

    Args:
        model: see `VAE`.
        recogniser: `iin.models.PairRecogniser`, with as many outputs as the code has numbers.
        variation_weight: of the term; 0 computes it for the recogniser alone, which then is a spectator: the
            autoencoder is to the bit what it would be without (unless ``train.clip`` cuts the gradients of both).
        source: where codes come from, ``prior`` or ``posterior``.
        change: ``redraw`` or ``step``.
        epsilon: deviation of a step.
        regulariser, beta, gamma, capacity, threshold, lambda_od, lambda_d, discriminator: see `VAE`.

    Raises:
        ValueError: the parts do not fit each other; further, see `VAE`.

    References:
        Learning Disentangled Representations with Latent Variation Predictability (Zhu, Xu and Tao, 2020),
        arXiv:2007.12885
    """

    def __init__(
        self,
        model: ConvVAE,
        recogniser: PairRecogniser,
        variation_weight: NonNegative = 10.0,
        source: Literal["posterior", "prior"] = "prior",
        change: Literal["redraw", "step"] = "redraw",
        epsilon: Positive = 1.0,
        regulariser: Regulariser = "betavae",
        beta: NonNegative = 4.0,
        gamma: NonNegative | None = None,
        capacity: NonNegative = 25.0,
        threshold: NonNegativeInt = 100000,
        lambda_od: NonNegative = 5.0,
        lambda_d: NonNegative | None = None,
        discriminator: nn.Module | None = None,
    ) -> None:
        super().__init__(model, regulariser, beta, gamma, capacity, threshold, lambda_od, lambda_d, discriminator)
        for what, ours in (
            ("outputs", self.dim),
            ("channels", getattr(model, "channels", None)),
            ("size", getattr(model, "size", None)),
        ):
            theirs = getattr(recogniser, what, None)
            if None not in (ours, theirs) and ours != theirs:
                raise ValueError(f"recogniser: has {what} {theirs}, but the model's is {ours}")
        if self.dim < 2:
            raise ValueError(f"model: has {self.dim} latent; expected at least 2, to tell which one has changed")
        self.recogniser = recogniser
        self.variation_weight = variation_weight
        self.source, self.change, self.epsilon = source, change, epsilon

    def penalty(self, seen: Seen, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        added, scalars = super().penalty(seen, step)
        # From numbers of its own: whatever else is drawn in a step is what it would be without this term. And each of
        # several processes makes other pairs.
        own = torch.Generator().manual_seed(mix(torch.initial_seed() + rank(), step))
        z, other, changed = self.pairs(seen.z.detach(), own)
        # Without a weight the decoder does not hear of it, and the recogniser learns all the same.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.variation_weight > 0):
            images = self.decode(z), self.decode(other)
        logits = at_least_single(self.recogniser(*images))
        vp = variation_loss(logits, changed).mean()
        accuracy = (logits.argmax(1) == changed).float().mean()
        term = self.variation_weight * vp if self.variation_weight else vp - vp.detach()
        return added + term, {**scalars, "vp": vp, "accuracy": accuracy}

    def pairs(self, z: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Codes that differ in one number, and which it is.

        Args:
            z: codes of images ``[B, L]``.
            generator: of what is drawn, on whatever device; by default torch's own.

        Returns:
            First codes and second codes, each ``[B, L]``; the number that differs ``[B]`` int64.
        """
        if self.source == "prior":
            z = standard_normal(len(z), self.dim, z, generator)
        where = z.device if generator is None else generator.device
        changed = torch.randint(self.dim, (len(z),), generator=generator, device=where).to(z.device)
        drawn = standard_normal(len(z), 1, z, generator)
        if self.change == "redraw":
            return z, z.scatter(1, changed[:, None], drawn), changed
        return z, z.scatter_add(1, changed[:, None], self.epsilon * drawn), changed

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        players = super().trainable()
        players["vae"] = [*players["vae"], *(p for p in self.recogniser.parameters() if p.requires_grad)]
        return players
