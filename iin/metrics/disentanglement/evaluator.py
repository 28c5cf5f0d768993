"""Scores of disentanglement of a system's codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from iin.arguments import Count, NonNegative, NonNegativeInt
from iin.data.factors import KnownFactors
from iin.metrics.contract import kept, made, method
from iin.metrics.disentanglement.correlation import unsupervised
from iin.metrics.disentanglement.information import mig, modularity
from iin.metrics.disentanglement.interventions import beta_vae_score, factor_vae_score
from iin.metrics.disentanglement.linear import explicitness, sap
from iin.metrics.disentanglement.local import RADII, local_scores
from iin.metrics.disentanglement.points import Points, constant, learners
from iin.metrics.disentanglement.robustness import irs
from iin.metrics.disentanglement.sampling import Represent, sample_codes, sizes_of
from iin.metrics.disentanglement.trees import dci
from iin.system import System

__all__ = ["Disentanglement", "Score"]

Score = Literal[
    "mig", "modularity", "sap", "dci", "explicitness", "irs", "unsupervised", "factor_vae", "beta_vae", "local_mig",
    "local_modularity",
]  # fmt: skip
"""Name of a score."""

_TESTED = ("sap", "dci", "explicitness")
"""Scores of predictions, which are judged on further points, and want factors that vary."""
_INTERVENE = ("factor_vae", "beta_vae", "local_mig", "local_modularity")
"""Scores that choose the factors of images themselves."""
_LEARN = (*_TESTED, "beta_vae")
"""Scores of scikit-learn's classifiers."""


class Disentanglement:
    """How far a system's codes stand for factors of the data, by the scores of the field.

    Figures: ``disentanglement/`` with ``mig``, ``modularity``, ``sap``, ``irs``, ``explicitness``, ``dci``
    (disentanglement), ``completeness`` and ``informativeness`` (of ``dci`` too), ``factor_vae`` and ``active``,
    ``beta_vae``; of ``unsupervised`` ``total_correlation``, ``wasserstein``, ``wasserstein_normalised`` and
    ``mutual_information``; and for each radius ``local_mig/0.1``, ``local_modularity/0.1``. Those that are learnt are
    of points that were not learnt from. See `iin.metrics.disentanglement` for the scores as functions.

    With ``data``, images are drawn and rendered, by the same random numbers as published figures. Without, the test
    images count, whose labels must be factors ``[B, F]``, or classes ``[B]``, which are taken for one factor.

    Args:
        metrics: which scores; by default ``mig`` and ``modularity`` and, with ``data``, ``local_mig`` and
            ``local_modularity``. ``sap``, ``dci``, ``explicitness`` and ``beta_vae`` need ``iin[metrics]``. ``dci``
            takes longest: a hundred trees for each value of a factor.
        data: with known factors, such as ``{target: iin.data.ThreeDots}``; ``factor_vae``, ``beta_vae`` and the local
            scores need it.
        points: images, to learn from where anything is learnt; also of each neighbourhood, and those that the FactorVAE
            score takes variances from.
        test_points: further ones, for what has been learnt. Of test images a third of ``points`` is for that.
        codes: the system's method that answers codes of images ``[B, D]``, or a distribution over them, whose mean
            counts: ``encode``, or ``code`` for the first stage's of a flow.
        bins: that codes are put into, or factors for ``irs``.
        radii: of neighbourhoods, as shares of each factor's range.
        clusters: how many neighbourhoods for each radius; every one costs ``points`` images.
        local_bins: that codes are put into in a neighbourhood.
        cutoff: factors with fewer values stay at the centre's in a neighbourhood.
        denied: numbers of factors that stay too.
        votes: of the FactorVAE score, and points of the BetaVAE score; each costs 64 images, or 128.
        test_votes: further ones, for what has been learnt.
        batch_size: factors that are drawn at a time, column by column: it decides which.
        seed: of all draws, which begin anew for each score.

    Raises:
        ValueError: a score needs ``data`` and there is none, or it has no known factors; or, when measured, a score
            cannot be taken of such codes or factors.
    """

    def __init__(
        self,
        metrics: Sequence[Score] | None = None,
        data: KnownFactors | None = None,
        points: Annotated[int, Ge(2)] = 10_000,
        test_points: Count = 5_000,
        codes: Literal["encode", "code"] = "encode",
        bins: Annotated[int, Ge(2)] = 20,
        radii: Sequence[NonNegative] = RADII,
        clusters: Count = 20,
        local_bins: Annotated[int, Ge(2)] = 5,
        cutoff: NonNegativeInt = 10,
        denied: Sequence[NonNegativeInt] = (),
        votes: Count = 10_000,
        test_votes: Count = 5_000,
        batch_size: Count = 16,
        seed: NonNegativeInt = 0,
    ) -> None:
        self.metrics = tuple(
            metrics or (("mig", "modularity", *_INTERVENE[2:]) if data is not None else ("mig", "modularity"))
        )
        known = Score.__args__  # type: ignore[attr-defined]
        if unknown := [name for name in self.metrics if name not in known]:
            raise ValueError(f"Disentanglement: metrics: there is no {unknown[0]}; expected {', '.join(known)}")
        choosing = [name for name in self.metrics if name in _INTERVENE]
        if data is None and choosing:
            raise ValueError(
                f"Disentanglement: {', '.join(choosing)} choose factors of images, and need data with known factors: "
                "data: {target: iin.data....}; or leave them out of metrics"
            )
        if data is not None:
            sizes_of(data, "Disentanglement")
        self.data = data
        self.points, self.test_points = points, test_points
        self.codes = codes
        self.bins = bins
        self.radii, self.clusters, self.local_bins = tuple(radii), clusters, local_bins
        self.cutoff, self.denied = cutoff, tuple(denied)
        self.votes, self.test_votes = votes, test_votes
        self.batch_size = batch_size
        self.seed = seed
        self.facts: dict[str, Any] = {"codes": codes}
        """What the figures were made with, to be recorded beside them: ``codes`` (the method), ``factors`` (the data)
        and, once called, ``figures`` (their names)."""
        if data is not None:
            self.facts["factors"] = str(getattr(data, "source", type(data).__name__))

    @staticmethod
    def lacks(metrics: Sequence[str] | None = None, **_: Any) -> Iterator[str]:
        """What this metric needs with these arguments, and is not here."""
        learnt = [name for name in metrics or () if name in _LEARN]
        problem = learners(f"metrics: {', '.join(learnt)}: this") if learnt else None
        if problem:
            yield problem

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, self.codes, "Disentanglement")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        self.check_system(system)
        figures: dict[str, float] = {}
        if any(name not in _INTERVENE for name in self.metrics):
            learnt, tested = self._shown(system, batches) if self.data is None else self._drawn(system, batches)
            for name in self.metrics:
                if name not in _INTERVENE:
                    figures |= self._of_points(name, learnt, tested)
        if self.data is not None:
            represent = self._represent(system)
            for name in ("factor_vae", "beta_vae"):
                if name in self.metrics:
                    figures |= self._of_votes(name, represent, self.data)
            figures |= self._of_neighbourhoods(represent, self.data)
        self.facts["figures"] = list(figures)
        return figures

    def _of_points(self, name: str, learnt: Points, tested: Points | None) -> dict[str, float]:
        codes, factors = learnt
        prefix = "disentanglement/"
        if name in _TESTED:
            varies = ~constant(np.asarray(factors))  # nothing can be predicted of the others
            if not varies.any():
                raise ValueError(f"Disentanglement: {name}: no factor varies")
            learnt = codes, factors[:, varies]
            tested = None if tested is None else (tested[0], tested[1][:, varies])
        if name == "mig":
            return {prefix + name: mig(codes, factors, bins=self.bins)}
        if name == "modularity":
            return {prefix + name: modularity(codes, factors, bins=self.bins)}
        if name == "irs":
            return {prefix + name: irs(codes, factors, bins=self.bins)}
        if name == "unsupervised":
            return {prefix + key: value for key, value in unsupervised(codes, bins=self.bins).items()}
        if name == "sap":
            return {prefix + name: sap(*learnt, tested, seed=self.seed)}
        if name == "explicitness":
            return {prefix + name: explicitness(*learnt, tested, seed=self.seed)["test"]}
        found = dci(*learnt, tested, seed=self.seed)
        return {
            prefix + "dci": found["disentanglement"],
            prefix + "completeness": found["completeness"],
            prefix + "informativeness": found["informativeness_test"],
        }

    def _of_votes(self, name: str, represent: Represent, data: KnownFactors) -> dict[str, float]:
        if name == "beta_vae":
            found = beta_vae_score(represent, data, self.seed, points=self.votes, test_points=self.test_votes)
            return {"disentanglement/beta_vae": found["test"]}
        found = factor_vae_score(
            represent, data, self.seed, votes=self.votes, test_votes=self.test_votes, points=self.points
        )
        return {"disentanglement/factor_vae": found["test"], "disentanglement/active": found["active"]}

    def _of_neighbourhoods(self, represent: Represent, data: KnownFactors) -> dict[str, float]:
        scores = [name.removeprefix("local_") for name in _INTERVENE[2:] if name in self.metrics]
        if not scores:
            return {}
        found: dict[str, float] = {}
        for radius in self.radii:
            of_radius = local_scores(
                represent, data, self.seed, radius=radius, scores=scores, points=self.points, clusters=self.clusters,
                bins=self.local_bins, cutoff=self.cutoff, denied=self.denied, batch_size=self.batch_size,
            )  # fmt: skip
            found |= {f"local_{score}/{radius:g}": float(values.mean()) for score, values in of_radius.items()}
        return dict(sorted(found.items(), key=lambda item: item[0].split("/")[0]))

    # --- codes -----------------------------------------------------------------------

    def _shown(self, system: System, batches: Iterable[Any]) -> tuple[Points, None]:
        """Codes and factors of test images."""
        codes, factors, count = [], [], 0
        for batch in batches:
            label = getattr(batch, "label", None)
            if label is None:
                raise ValueError(
                    "Disentanglement: the test images have no labels; expected factors [B, F] as labels, or "
                    "data: {target: iin.data....} with known factors"
                )
            codes.append(_mean(made(system, batch, self.codes), self.codes).cpu())
            factors.append(label.reshape(len(label), -1).cpu())
            count += len(label)
            if count >= self.points:
                break
        if not count:
            raise ValueError("Disentanglement: there are no test images")
        return (torch.cat(codes)[: self.points], torch.cat(factors)[: self.points]), None

    def _drawn(self, system: System, batches: Iterable[Any]) -> tuple[Points, Points | None]:
        """Codes and factors of rendered images: to learn from, and for the test where there is one."""
        data, names = self.data, [name for name in self.metrics if name in _TESTED]
        assert data is not None
        about = type(data).__qualname__, getattr(data, "fingerprint", id(data))
        settings = self.codes, self.points, self.test_points if names else 0, self.batch_size, self.seed

        def draw() -> tuple[Tensor, ...]:
            generator = np.random.RandomState(self.seed)
            represent = self._represent(system)
            found: list[np.ndarray] = []
            for count in (self.points, self.test_points if names else 0):
                if count:
                    found += sample_codes(
                        represent, data, count, generator, batch_size=self.batch_size, metric="Disentanglement"
                    )
            return tuple(map(torch.from_numpy, found))

        # Other entries of this kind want the same.
        codes, factors, *tested = kept(system, batches, ("disentanglement", about, settings), draw)
        return (codes, factors), (tested[0], tested[1]) if tested else None

    def _represent(self, system: nn.Module) -> Callable[[Tensor], Tensor]:
        """Images to codes."""
        device = next((p.device for p in system.parameters()), torch.device("cpu"))
        encode = getattr(system, self.codes)
        worked = False

        def represent(image: Tensor) -> Tensor:
            nonlocal worked
            try:
                answer = encode(image.to(device))
            except RuntimeError as error:
                if worked:
                    raise
                reason = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"Disentanglement: {type(system).__name__}.{self.codes} failed on images {list(image.shape[1:])} "
                    f"of {type(self.data).__name__}; expected data of the size that it was trained on ({reason})"
                ) from error
            worked = True
            return _mean(answer, self.codes).cpu()

        return represent


def _mean(answer: Any, name: str) -> Tensor:
    """Codes ``[B, D]`` of what a system says of images: codes, or a distribution over them."""
    codes = answer if isinstance(answer, Tensor) else getattr(answer, "mean", None)
    if not isinstance(codes, Tensor):
        raise ValueError(
            f"Disentanglement: {name} answered {type(answer).__name__}; expected codes [B, D], or a distribution with "
            "a mean"
        )
    return codes.flatten(1) if codes.ndim > 1 else codes
