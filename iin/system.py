"""The interface between a method and the loop.

A `System` is all that training, evaluation and reports know of a method. It yields what is to be minimised, says
which parameters that moves, and shows pictures. See ``iin/systems`` for one method a file.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import Parameter

__all__ = ["Evaluator", "Loop", "Objective", "Picture", "System", "built_on"]


class Objective(NamedTuple):
    """One quantity to minimise."""

    name: str
    """The optimiser that minimises it: a key of `System.trainable`."""
    loss: Tensor
    """Scalar, with a graph."""
    scalars: dict[str, Tensor]
    """What to log beside the loss: detached scalars."""


class Loop(NamedTuple):
    """Images that move, panels beside each other; they are shown there and back again, without end."""

    images: Tensor
    """``[N, T, C, H, W]`` in [-1, 1]: T frames of N panels, each frame a small step from the one before."""
    labels: tuple[str, ...] = ()
    """What each panel is, in a word or two, written above it; by default nothing is."""
    ends: tuple[str, str] = ("", "")
    """What the first frame is and what the last one, written below, where a mark goes from one to the other."""


class Picture(NamedTuple):
    """Images worth a look, what one sees in them, and how they are laid out."""

    images: Tensor
    """``[N, C, H, W]`` in [-1, 1], laid out near-square, or ``[R, N, C, H, W]``: R rows as given."""
    title: str = ""
    """A few words; by default the picture's name."""
    caption: str = ""
    """What one sees, in a sentence or two."""
    rows: tuple[int, ...] = ()
    """Indices of rows that are set off from the one before: 1 makes a head of the first."""
    columns: tuple[int, ...] = ()
    """Likewise, of columns."""
    labels: tuple[str, ...] = ()
    """What each row is, in a word or two, written beside it: a layer's name; by default nothing is."""
    heads: tuple[str, ...] = ()
    """What each column is, written above it; by default nothing is."""
    loop: Loop | None = None
    """The same in motion, where that shows more; it becomes a file of its own, beside the picture's."""


def built_on(source: str | tuple[str, ...], *images: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a method of images from what it does with other methods' answers for them.

    ::

        @built_on("posterior")
        def code(self, posterior):
            return posterior.mean

    is a method ``code(image)``, which asks ``self.posterior(image)`` and goes on from there. Callers see no difference,
    nor do subclasses that replace either method. An evaluation does: it asks for the posterior of an image once,
    whatever else its metrics want that stands on it.

    Args:
        source: name of the other method, ``source(image)``; or names of several, each of whose answers is an argument.
        images: names of the images, in whose places the first arguments stand; default: ``image``. Of several images
            the arguments are the answers of the first source for each, then those of the next.
    """
    names = images or ("image",)
    sources = (source,) if isinstance(source, str) else source

    def mark(step: Callable[..., Any]) -> Callable[..., Any]:
        given = list(inspect.signature(step).parameters.values())
        replaced = 1 + len(names) * len(sources)
        shown = [given[1 + k].replace(name=name, annotation="Tensor") for k, name in enumerate(names)]
        signature = inspect.signature(step).replace(parameters=[given[0], *shown, *given[replaced:]])

        @functools.wraps(step)
        def method(self: Any, *arguments: Any, **named: Any) -> Any:
            bound = signature.bind(self, *arguments, **named)
            answers = [getattr(self, source)(bound.arguments[name]) for source in sources for name in names]
            return step(self, *answers, *bound.args[len(names) + 1 :], **bound.kwargs)

        method.built_on, method.step = sources, step  # type: ignore[attr-defined]
        method.__signature__ = signature  # type: ignore[attr-defined]
        return method

    return mark


class System(nn.Module, ABC):
    """A method: networks, and what they are trained for."""

    @abstractmethod
    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        """Yield what to minimise on this batch, one after another.

        This is a generator: each objective is minimised before the next is computed. Adversarial training needs
        no more than that: yield the generator's loss, then the discriminator's, which may be computed before the
        first is minimised or, where the new weights are to count, after. An ordinary method yields once.

        Args:
            batch: what the data set answered, on the device of the parameters.
            step: number of steps done before this one.
        """

    def trainable(self) -> dict[str, list[Parameter]]:
        """Parameters by the name of the objective that moves them; default: ``main`` moves all that require grad."""
        return {"main": [p for p in self.parameters() if p.requires_grad]}

    def lr_factors(self) -> dict[str, float]:
        """Learning rates that differ, by the objective's name, as multiples of ``train.lr``; default: none does."""
        return {}

    def betas(self) -> dict[str, tuple[float, float]]:
        """Decay rates of Adam that differ from ``train.betas``, by the objective's name; default: none does."""
        return {}

    def flows(self) -> list[nn.Module]:
        """Flows that are trained: what ``train.compile`` translates and ``train.shard`` splits; default: none."""
        return []

    def images(self, batch: Any) -> Mapping[str, Picture | Tensor]:
        """Pictures worth a look, by name; default: none.

        Called in eval mode, without gradients, with the same test batch at each evaluation. Noise from torch's
        generator is drawn anew at each; what shall stay the same needs a generator of its own.

        Args:
            batch: test data; it may be as small as one item.

        Returns:
            name -> `Picture`, or just its images.
        """
        return {}


Evaluator = Callable[[System, Iterable[Any]], "dict[str, float]"]
"""A metric: called with a system in eval mode and the test batches (iterable more than once), returns named floats."""
