"""Looking at a data set: the items that are shown, and figures over as many as a budget allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iin.data import Visit, mix
from iin.data.base import fetch, length
from iin.explore.content import Content, Factor, Item, Spread
from iin.report import charts

__all__ = ["BUDGET", "describe"]

BUDGET = 1 << 26
"""Numbers that are looked at for the figures: all of MNIST, or 5,461 colour images of 64x64."""
BATCH = 1 << 21
"""Numbers that are fetched at once, and no more than 512 items."""
LEVEL = 1 / 127.5
"""One of 256 levels in [-1, 1]: what noise below it hides is still one level."""
LISTED = 10
"""How many of the items at fault are named."""


def describe(
    data: Any, count: int = 48, seed: int = 0, *, split: str = "", config: str = "", budget: int = BUDGET
) -> Content:
    """Look at a data set.

    Args:
        data: ``__len__`` and ``__getitem__(indices) -> Images | Pairs``. Used where it has them: ``source``,
            ``factors``, ``classes`` (names of the labels), ``meaning`` and ``values`` (what a label says of factors,
            and may say), ``label`` (of all items), and ``skipped`` or ``odd`` (files that it left out, with reasons).
        count: how many items are shown; drawn at random, as those are that the figures are taken from.
        seed: of the items drawn, and of the visit to them.
        split: what to call this part of the data.
        config: YAML to quote.
        budget: how many numbers are looked at for the figures; a set with more is looked at in part.

    Raises:
        ValueError: the data set is empty, or does not answer as a data set should; one line.
        OSError: its files cannot be read.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1 item to show, found {count}")
    kind = type(data).__name__
    total = length(data)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(mix(seed, 5))).tolist()
    shown = order[:count]
    visit = mix(seed, 6)
    first = fetch(data, Visit(shown[:1], visit))
    paired = hasattr(first, "other")
    content = Content(
        kind=kind,
        split=split,
        source=str(getattr(data, "source", "")),
        count=total,
        seen=0,
        shape=tuple(first.image.shape[1:]),
        dtype=str(first.image.dtype).removeprefix("torch."),
        paired=paired,
        odd=_odd_files(data),
        config=config,
    )
    size = max(1, first.image.numel() * (2 if paired else 1))
    per_batch = max(1, min(512, BATCH // size))
    look = sorted(order[: max(count, budget // size, 1)])
    tally = _Tally(data, content, first)
    for start in range(0, len(look), per_batch):
        indices = Visit(look[start : start + per_batch], visit)
        tally.add(indices, fetch(data, indices, content.shape))
    tally.finish()
    repeats = True
    for start in range(0, len(shown), per_batch):
        indices = Visit(shown[start : start + per_batch], visit)
        batch = fetch(data, indices, content.shape)
        content.items += tally.items(indices, batch)
        repeats = repeats and (start > 0 or _equal(batch, fetch(data, indices, content.shape)))
    content.remarks = list(_remarks(content, repeats))
    return content


class _Tally:
    """Counts of what passes by."""

    def __init__(self, data: Any, content: Content, first: Any) -> None:
        self.content = content
        classes = getattr(data, "classes", None)
        self.classes = [_line(name) for name in classes] if isinstance(classes, (list, tuple)) else []
        self.all_labels = _all_labels(data, content.count)
        self.labels: Counter[int] = Counter()
        content.channels = [Spread() for _ in range(content.shape[0])]
        self.names: list[str] = []
        if content.paired:
            columns = first.shared.shape[1]
            self.names = [_line(name) for name in getattr(data, "factors", None) or ()]
            self.names = self.names or [f"factor {k + 1}" for k in range(columns)]
            if len(self.names) != columns:
                raise ValueError(
                    f"{content.kind}: names {len(self.names)} factors ({', '.join(self.names)}), but shared has "
                    f"{columns} columns; expected one for each"
                )
        self.shared, self.agree, self.judged, self.differ = ([0] * len(self.names) for _ in range(4))
        self.meanings: dict[int, dict[str, str]] = {}
        self.tells = getattr(data, "meaning", None)
        values = getattr(data, "values", None)
        values = values if isinstance(values, Mapping) else {}
        self.values = {_line(name): [_line(word) for word in words] for name, words in values.items()}

    def add(self, indices: Sequence[int], batch: Any) -> None:
        """Count a batch."""
        content = self.content
        content.seen += len(indices)
        images = [batch.image, batch.other] if content.paired else [batch.image]
        broken = torch.stack([~image.isfinite().flatten(1).all(1) for image in images]).any(0)
        constant = torch.stack([_is_constant(image) for image in images]).any(0)
        content.broken += [index for index, found in zip(indices, broken.tolist(), strict=True) if found]
        content.constant += [index for index, found in zip(indices, constant.tolist(), strict=True) if found]
        for image in images:
            for channel in range(image.shape[1]):
                content.channels[channel] = content.channels[channel].join(Spread.of(image[:, channel]))
        label, other = _labels(batch, "label"), _labels(batch, "other_label")
        if label is not None and self.all_labels is None:
            self.labels.update(label.tolist())
        if not content.paired:
            return
        content.apart += int((~batch.shared.any(1)).sum())
        for k, (name, shares) in enumerate(zip(self.names, batch.shared.unbind(1), strict=True)):
            self.shared[k] += int(shares.sum())
            if label is None or other is None:
                continue
            if self.tells is not None:
                pairs = zip(label[shares].tolist(), other[shares].tolist(), strict=True)
                self.differ[k] += sum(self.meaning(a).get(name) != self.meaning(b).get(name) for a, b in pairs)
                continue
            self.judged[k] += int(shares.sum())
            self.agree[k] += int((shares & (label == other)).sum())

    def finish(self) -> None:
        """Put the counts into the content."""
        labels = self.labels if self.all_labels is None else Counter(self.all_labels.tolist())
        self.content.labelled = sum(labels.values())
        if labels and self.tells is not None:
            # Values without any item are as telling as those with many.
            self.content.meanings = {name: dict.fromkeys(words, 0) for name, words in self.values.items()}
            for label in sorted(labels):
                for name, word in self.meaning(label).items():
                    counts = self.content.meanings.setdefault(name, {})
                    counts[word] = counts.get(word, 0) + labels[label]
        elif labels:
            # Names without any item are as telling as those with many.
            numbers = sorted({*labels, *range(len(self.classes))})
            names = Counter(self.word(number) for number in numbers)
            self.content.labels = {
                (self.word(number) if names[self.word(number)] == 1 else f"{self.word(number)} ({number})"): labels[
                    number
                ]
                for number in numbers
            }
        self.content.factors = [
            Factor(name, shared, agree / judged if judged else None, differ)
            for name, shared, agree, judged, differ in zip(
                self.names, self.shared, self.agree, self.judged, self.differ, strict=True
            )
        ]

    def meaning(self, label: int) -> dict[str, str]:
        """What a label says of each thing that it tells of."""
        if label not in self.meanings:
            try:
                self.meanings[label] = {_line(name): _line(word) for name, word in self.tells(label).items()}  # type: ignore[misc]
            except Exception as error:  # of somebody's own method
                reason = f"{type(error).__name__}: {_line(error)}"
                raise ValueError(f"{self.content.kind}: meaning({label}) failed ({reason}); expected a dict") from error
        return self.meanings[label]

    def word(self, label: int) -> str:
        """A label as people call it."""
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)

    def words(self, batch: Any, name: str) -> list[str]:
        labels = _labels(batch, name)
        if labels is None or self.tells is not None:
            return [""] * len(batch.image)
        return [self.word(label) for label in labels.tolist()]

    def items(self, indices: Sequence[int], batch: Any) -> Iterator[Item]:
        """What is shown of a batch."""
        labels = self.words(batch, "label")
        if not self.content.paired:
            yield from map(Item, indices, batch.image, labels)
            return
        numbers = _labels(batch, "label")
        for row, (index, other) in enumerate(zip(indices, self.words(batch, "other_label"), strict=True)):
            means = self.meaning(int(numbers[row])) if numbers is not None and self.tells is not None else {}
            shared = tuple(
                f"{name}: {means[name]}" if name in means else name
                for name, yes in zip(self.names, batch.shared[row].tolist(), strict=True)
                if yes
            )
            yield Item(index, batch.image[row], labels[row], batch.other[row], other, shared)


def _labels(batch: Any, name: str) -> Tensor | None:
    """Labels ``[B]`` of a batch, where there is one whole number an image."""
    label = getattr(batch, name, None)
    if not isinstance(label, Tensor) or label.is_floating_point() or label.is_complex():
        return None
    return label if label.shape == (len(batch.image),) else None


def _all_labels(data: Any, count: int) -> Tensor | None:
    """Labels ``[N]`` of all items, where the data set has them at hand."""
    try:
        label = torch.as_tensor(getattr(data, "label", None))
    except (TypeError, ValueError, RuntimeError):
        return None
    return label if label.shape == (count,) and not label.is_floating_point() else None


def _is_constant(image: Tensor) -> Tensor:
    """Which images ``[B, C, H, W]`` are of one colour, but for noise within a level: ``[B]`` bool."""
    low, high = image.flatten(2).double().aminmax(dim=2)
    return (high - low <= LEVEL).all(1)


def _equal(batch: Any, again: Any) -> bool:
    """Whether two visits saw the same."""
    names = ("image", "other", "shared") if hasattr(batch, "other") else ("image",)
    pairs = ((getattr(batch, name), getattr(again, name)) for name in names)
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _odd_files(data: Any) -> list[tuple[str, str]]:
    """What a data set says it left out."""
    found = getattr(data, "skipped", None) or getattr(data, "odd", None) or ()
    if isinstance(found, Mapping):
        found = found.items()
    if not isinstance(found, Iterable) or isinstance(found, (str, bytes)):
        return []
    entries = (entry if isinstance(entry, (tuple, list)) and len(entry) == 2 else (entry, "") for entry in found)
    return [(str(path), _line(reason)) for path, reason in entries]


def _remarks(content: Content, repeats: bool) -> Iterator[str]:
    """What looks wrong."""
    values = content.values
    if content.dtype != "float32":
        yield f"Images are {content.dtype}; float32 in [-1, 1] is expected."
    if values.size and (values.low < -1 or values.high > 1):
        ranges = f"from {charts.number(values.low)} to {charts.number(values.high)}"
        yield f"Values go {ranges}; images are expected in [-1, 1], and shown clipped to that."
    for indices, words in ((content.broken, "values that are not finite"), (content.constant, "one colour all over")):
        if indices:
            named = ", ".join(map(str, indices[:LISTED])) + (" and others" if len(indices) > LISTED else "")
            items = "item" if len(indices) == 1 else "items"
            yield f"{content.amount(len(indices))} with {words}: {items} {named}."
    if content.shape[0] not in (1, 3):
        yield f"Images have {content.shape[0]} channels; 1 or 3 are expected. Shown is their mean, in grey."
    if not repeats:
        yield "The same visit twice did not give the same images: random numbers should come from iin.data.Draws."
    if content.factors and (last := content.factors[-1]).pairs:
        shared = f"{content.amount(last.pairs)} made to share {last.name!r}, the last factor"
        yield f"{shared}: that is the residual, which no pair should share."
    for factor in content.factors[:-1]:
        if not factor.pairs:
            yield f"No pair shares {factor.name!r}."
        if factor.different:
            yield f"{content.amount(factor.different)} made to share {factor.name!r}, though they differ in it."
    if content.apart:
        yield f"{content.amount(content.apart)} with nothing shared."
    if content.odd:
        yield f"{content.left_out} {'was' if len(content.odd) == 1 else 'were'} left out."


def _line(value: Any) -> str:
    """Anything as one line."""
    return " ".join(str(value).split())
