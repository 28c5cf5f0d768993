"""What a layer takes notice of, in terms that people understand: a factor flow behind a conditional one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from iin.arguments import Count
from iin.metrics.contract import gathered, method, placed, represented
from iin.seeds import mix
from iin.system import System

__all__ = ["Sensitivity"]


class Sensitivity:
    """How far a representation moves when one factor of the image is exchanged.

    A factor flow over the same first stage translates codes into factors: ``e(x)``. Of each test image a sample is
    drawn that has its representation, ``x = t^-1(v | Phi(image))``; one factor of ``e(x)`` is taken from the sample of
    another test image, the rest stays, and the code is translated back and decoded. Figures for each factor:

    * ``sensitivity/<factor>``: mean distance between the representations of the sample before and after, in units of
      the mean distance between the representations of two samples: 1 where the factor is all that the layer sees;
    * ``sensitivity/<factor>/changed``: how often the network predicts another class after than before, where the
      representation has ``logits``.

    Args:
        flow: the system of the factor flow, such as ``{target: iin.first_stage.pretrained, params: {config: ...,
            part: ""}}``, or a run.
        names: of its factors; default: those it has.
        images: how many test images count, at most.
        batch_size: how many at a time; another image is one of the same batch.

    Raises:
        ValueError: the flow has no factors, or not so many; or, when measured, it stands on another first stage.

    References:
        Making Sense of CNNs: Interpreting Deep Representations & Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777, section 3.3 (semantic modifications)
    """

    divided = True

    def __init__(
        self,
        flow: Any,
        names: Sequence[str] | None = None,
        images: Annotated[int, Ge(2)] = 500,
        batch_size: Count = 250,
    ) -> None:
        self.flow = flow
        if not callable(getattr(flow, "exchange", None)) or not hasattr(flow, "factors"):
            raise ValueError(f"Sensitivity: flow: {type(flow).__name__} has no factors; expected a FactorFlow")
        self.names = tuple(names or self.flow.names)
        if len(self.names) != len(self.flow.factors):
            raise ValueError(f"Sensitivity: names: {len(self.names)} names for {len(self.flow.factors)} factors")
        self.images, self.batch_size = images, batch_size

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, "codes", "Sensitivity", decoder=True)
        if not getattr(system, "conditional", False):
            raise ValueError(f"Sensitivity needs a conditional flow; this {type(system).__name__} is none")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        self.check_system(system)
        asked: Any = system
        self._compare(asked.first_stage)
        self.flow.to(next(system.parameters()).device).eval()
        classifies = callable(getattr(asked.representation, "logits", None))
        found: dict[str, list[tuple[int, Tensor]]] = {}
        for start, batch in placed(batches):
            if start >= self.images:
                break
            (context,) = represented(system, batch, self.images - start)
            for offset in range(0, len(context), self.batch_size):
                part = context[offset : offset + self.batch_size]
                if len(part) < 2:
                    continue  # nobody to take a factor from
                for name, values in self._of(asked, part, start + offset, classifies).items():
                    found.setdefault(name, []).append((start + offset, values))
        moved = [f"sensitivity/{name}" for name in self.names]
        changed = [f"{name}/changed" for name in moved] if classifies else []
        means = {}
        for name in ["apart", *moved, *changed]:
            all_ = gathered(batches, found.get(name, []))
            if not len(all_):
                raise ValueError("Sensitivity: at least 2 test images are needed")
            means[name] = all_.double().mean().item()
        if not means["apart"]:
            raise ValueError(
                "Sensitivity: all samples have the same representation: no distance is there to compare with"
            )
        return {name: means[name] / means["apart"] for name in moved} | {name: means[name] for name in changed}

    def _of(self, system: Any, context: Tensor, seed: int, classifies: bool) -> dict[str, Tensor]:
        """Figures of each image ``[B]``."""
        generator = torch.Generator().manual_seed(mix(seed, 6))
        x = system.codes(context, system.latents(len(context), generator)[:, None])[:, 0]  # [B, D]
        latent = self.flow.flow(x)[0]
        other = latent.roll(1, 0)
        sample = system.first_stage.decode(x)
        seen = system.represent(sample).flatten(1)
        found = {"apart": (seen - seen.roll(1, 0)).norm(dim=1)}
        label = system.representation.logits(sample).argmax(1) if classifies else None
        for index, name in enumerate(self.names):
            code = self.flow.flow.inverse(self.flow.exchange(latent, other, [index]))
            image = system.first_stage.decode(code)
            found[f"sensitivity/{name}"] = (system.represent(image).flatten(1) - seen).norm(dim=1)
            if label is not None:
                found[f"sensitivity/{name}/changed"] = (system.representation.logits(image).argmax(1) != label).float()
        return found

    def _compare(self, first_stage: nn.Module) -> None:
        """Raise ValueError unless both flows stand on the same network."""
        ours, theirs = first_stage.state_dict(), self.flow.first_stage.state_dict()
        same = ours.keys() == theirs.keys() and all(
            value.shape == theirs[key].shape and torch.equal(value.cpu(), theirs[key].cpu())
            for key, value in ours.items()
        )
        if not same:
            raise ValueError(
                "Sensitivity: the factor flow stands on another first stage than the conditional flow, so that their "
                "codes mean different things; train both over one"
            )
