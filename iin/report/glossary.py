"""What the figures of an evaluation are, in words: for the page, and for whoever prints them.

A figure that is not listed here is called by its name; to explain a new one, add a line to ``_FIGURES``. A group in
its pattern stands for a factor, or for what was compared, and is put where the texts say ``{0}`` and ``{1}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["SECTIONS", "Figure", "explain", "headlines", "section"]


@dataclass(frozen=True)
class Figure:
    """What a figure is, in words."""

    title: str
    text: str = ""
    """What it tells, and which way is good."""
    percent: bool = False
    """A share of 1, shown in per cent."""
    group: str = ""
    """Figures of one group have one scale and share a chart; by default each has its own."""

    @property
    def better(self) -> int:
        """1 where higher is better, -1 where lower is, 0 where neither is said."""
        return bool(re.search("Higher is better|1 is best", self.text)) - ("Lower is better" in self.text)


def explain(name: str) -> Figure:
    """What the figure of this name is; one that is not known is called by its name."""
    for pattern, figure in _FIGURES.items():
        if match := re.fullmatch(pattern, name):
            parts = [part.replace("_", " ") for part in match.groups()]
            title = figure.title.format(*parts)
            group = figure.group.format(*parts) or name
            return Figure(title[:1].upper() + title[1:], figure.text.format(*parts), figure.percent, group)
    return Figure(name, group=name)


def headlines(names: Iterable[str]) -> list[str]:
    """Those figures that matter most, in the order in which they do."""
    names = list(dict.fromkeys(names))
    found = [name for pattern in _HEADLINES for name in names if re.fullmatch(pattern, name)]
    return list(dict.fromkeys(found))


_HEADLINES = (
    r"swaps/.+/follows",
    r"swaps/.+/stays",
    r"swaps/.+/error",
    r"accuracy",
    r"disentanglement/mig",
    r"disentanglement/modularity",
    r"(?:disentanglement/)?local_mig/0\.1",
    r"(?:disentanglement/)?local_modularity/0\.1",
    r"disentanglement/dci",
    r"vp/honest",
    r"fid/samples",
    r"fd_\w+/samples",
    r"reconstruction/mae",
    r"nll/nats",
)


def section(name: str) -> str:
    """Under which heading a figure belongs."""
    first = name.split("/")[0]
    return SECTIONS.get(first.split("_")[0] if first.startswith(("fd_", "kid_")) else first, "Other figures")


SECTIONS = {
    "invariances": "What the layer leaves free",
    "agreement": "What the layer leaves free",
    "similarity": "What the layer leaves free",
    "sensitivity": "What the layer leaves free",
    "swaps": "Swaps",
    "accuracy": "Classification",
    "fid": "Image quality",
    "fd": "Image quality",
    "kid": "Image quality",
    "reconstruction": "Reconstruction",
    "nll": "Likelihood",
    "latent": "Likelihood",
    "inversion": "Inversion",
    "dims": "Factor dimensions",
    "disentanglement": "Disentanglement",
    "local_mig": "Disentanglement",
    "local_modularity": "Disentanglement",
    "vp": "Variation predictability",
}
"""Heading by a figure's first part, in the order of a table."""

_FIGURES = {
    r"invariances/free": Figure(
        "Left free",
        "Share of the variance of the first stage's code that remains when the representation is given: what the layer "
        "does not know.",
        percent=True,
        group="Variance of the code",
    ),
    r"invariances/fixed": Figure(
        "Fixed",
        "The rest: the share of the code's variance that the representation decides.",
        percent=True,
        group="Variance of the code",
    ),
    r"invariances/error": Figure(
        "Left free, standard error", "Of the share that is left free, over test images.", percent=True
    ),
    r"invariances/difference": Figure(
        "Samples from the reconstruction",
        "Mean absolute difference between samples with an image's representation and the first stage's reconstruction "
        "of it; values lie in [-1, 1]. Near 0 where the layer knows everything.",
    ),
    r"invariances/deviation": Figure(
        "Deviation of samples",
        "Standard deviation over samples with the same representation, mean over pixels; values lie in [-1, 1].",
    ),
    r"agreement/samples": Figure(
        "Prediction on samples",
        "How often the network predicts for images with the same representation the class that it predicts for the "
        "image itself. Higher is better.",
        percent=True,
        group="Agreement of predictions",
    ),
    r"agreement/(\w+)": Figure(
        "Prediction on {0}",
        "The same for {0}: about the most that samples can reach.",
        percent=True,
        group="Agreement of predictions",
    ),
    r"similarity/samples_std": Figure(
        "Similarity of samples, deviation", "Standard deviation of the cosine similarity over samples and images."
    ),
    r"similarity/others": Figure(
        "Similarity of other images",
        "Cosine similarity of the representations of two different test images: what is reached without any skill.",
        group="Similarity of representations",
    ),
    r"similarity/(\w+)": Figure(
        "Similarity of {0}",
        "Cosine similarity of the representation of {0}, encoded anew, with that of the image. Higher is better.",
        group="Similarity of representations",
    ),
    r"sensitivity/(.+)/changed": Figure(
        "Prediction changes with {0}",
        "How often the network predicts another class when the {0} is taken from another image.",
        percent=True,
        group="Predictions that change",
    ),
    r"sensitivity/(.+)": Figure(
        "Sensitivity to {0}",
        "How far the representation moves when the {0} is taken from another image, in units of the distance between "
        "the representations of two images.",
        group="Sensitivity of the representation",
    ),
    r"latent/mean": Figure(
        "Latent, means",
        "Root of the mean square of the latent's means over test images, which shall be 0.",
        group="Latent, from the standard normal",
    ),
    r"latent/deviation": Figure(
        "Latent, deviations",
        "How far the standard deviations of the latent are from 1 (root of the mean square).",
        group="Latent, from the standard normal",
    ),
    r"latent/kolmogorov": Figure(
        "Latent, distributions",
        "Mean distance between the distribution functions of the latent's units and the normal one "
        "(Kolmogorov-Smirnov).",
        group="Latent, from the standard normal",
    ),
    r"swaps/(.+)/follows": Figure(
        "{0} follows",
        "With the {0} taken from another image, the result shows the other's {0}. Higher is better.",
        percent=True,
        group="Swaps of {0}",
    ),
    r"swaps/(.+)/stays": Figure(
        "{0} stays",
        "With everything but the {0} taken from another image, the result still shows its own {0}. Higher is better.",
        percent=True,
        group="Swaps of {0}",
    ),
    r"swaps/(.+)/error": Figure(
        "{0} error",
        "How far the swapped {0} is from the other image's: mean absolute error of values in [0, 1]. Lower is better.",
        group="Swaps of {0}: error",
    ),
    r"swaps/(.+)/chance": Figure(
        "{0} error by chance",
        "The same error against the {0} of some third image: what the model would get without any skill.",
        group="Swaps of {0}: error",
    ),
    r"swaps/(.+)/judge_images": Figure(
        "Judge on test images",
        "How often the judge of the swaps reads the {0} of a test image right.",
        percent=True,
        group="Judge of {0}",
    ),
    r"swaps/(.+)/judge_reconstructions": Figure(
        "Judge on reconstructions",
        "The same on reconstructions of test images: about the most that a swap can reach.",
        percent=True,
        group="Judge of {0}",
    ),
    r"accuracy": Figure(
        "Accuracy", "Share of the test images whose class is named right. Higher is better.", percent=True
    ),
    r"fid/(\w+)": Figure(
        "FID of {0}",
        "Fréchet distance between {0} and real images in features of the Inception network. Lower is better.",
        group="FID",
    ),
    r"fd_(\w+?)/(\w+)": Figure(
        "Fréchet distance of {1}",
        "Distance between {1} and real images in features of the small network “{0}”; not to be compared with an FID. "
        "Lower is better.",
        group="Fréchet distance ({0})",
    ),
    r"kid/(\w+)_std": Figure(
        "KID of {0}, deviation",
        "Standard deviation of the KID from one subset of the images to another.",
        group="KID, deviation",
    ),
    r"kid/(\w+)": Figure(
        "KID of {0}",
        "Kernel distance between {0} and real images in features of the Inception network. Unlike an FID it is not too "
        "large for few images, and about 0 (or just below) for images that cannot be told apart. Lower is better.",
        group="KID",
    ),
    r"kid_(\w+?)/(\w+)_std": Figure(
        "Kernel distance of {1}, deviation",
        "Standard deviation of the kernel distance from one subset of the images to another.",
        group="Kernel distance, deviation ({0})",
    ),
    r"kid_(\w+?)/(\w+)": Figure(
        "Kernel distance of {1}",
        "Distance between {1} and real images in features of the small network “{0}”, as KID computes it; not to be "
        "compared with a KID. Unlike a Fréchet distance it does not grow when there are few images. Lower is better.",
        group="Kernel distance ({0})",
    ),
    r"reconstruction/mse": Figure(
        "Reconstruction, squared error",
        "Mean over the pixels of the test images, which lie in [-1, 1]. Lower is better.",
    ),
    r"reconstruction/mae": Figure(
        "Reconstruction, absolute error",
        "Mean over the pixels of the test images, which lie in [-1, 1]. Lower is better.",
    ),
    r"nll/nats": Figure(
        "Negative log-likelihood",
        "How surprised the flow is by the code of a test image, in nats. Lower is better.",
    ),
    r"nll/bits_per_dim": Figure(
        "Bits per dimension", "The same in bits, divided by the number of the code's units. Lower is better."
    ),
    r"inversion/max": Figure(
        "Largest inversion error",
        "Codes of test images, sent through the flow and back: the farthest that any unit ends up from where it was. "
        "Only rounding should remain.",
        group="Inversion error",
    ),
    r"inversion/mean": Figure(
        "Mean inversion error", "The same, averaged over units and images.", group="Inversion error"
    ),
    r"dims/code/(.+)": Figure(
        "Units for {0}",
        "As the published code would split the code. A property of the first stage's code: it does not change while "
        "the flow trains.",
        group="Units, published code's formula",
    ),
    r"dims/paper/(.+)": Figure(
        "Units for {0}, paper",
        "As the paper's formula would split it. It can be 0: scores are exponentiated and the residual's is the number "
        "of units, so that a factor whose units agree only partly gets a share that is rounded down to nothing.",
        group="Units, paper's formula",
    ),
    r"dims/score/(.+)": Figure(
        "Score of {0}",
        "How far the codes of images that share it agree, at most 1; the residual has 1 by definition.",
        group="Score, published code's formula",
    ),
    r"dims/paper_score/(.+)": Figure(
        "Score of {0}, paper",
        "Correlation of the codes, summed over the units; the residual has their number by definition.",
        group="Score, paper's formula",
    ),
    r"vp/published": Figure(
        "Latent that changed, published",
        "How often a network that has learnt from other pairs sees which latent has changed between two images, at the "
        "epoch that is best on these very pairs. Higher is better.",
        percent=True,
        group="Variation predictability",
    ),
    r"vp/honest": Figure(
        "Latent that changed, honest",
        "The same at the epoch that is best on further pairs, without a say of those that are counted. "
        "Higher is better.",
        percent=True,
        group="Variation predictability",
    ),
    r"vp/(\w+)_std": Figure(
        "Latent that changed, {0}, deviation",
        "Standard deviation of it from one run to another.",
        percent=True,
        group="Variation predictability, deviation",
    ),
    r"disentanglement/mig": Figure(
        "Mutual information gap",
        "By how much the code that tells most of a factor is ahead of the next, in units of all there is to tell; mean "
        "over factors. 1 is best.",
        group="Disentanglement",
    ),
    r"disentanglement/modularity": Figure(
        "Modularity", "How far each code tells of one factor only, mean over codes. 1 is best.", group="Disentanglement"
    ),
    r"disentanglement/sap": Figure(
        "SAP",
        "By how much the code that predicts a factor best is ahead of the next (accuracy of a linear support vector "
        "machine); mean over factors. Higher is better.",
        group="Disentanglement",
    ),
    r"disentanglement/dci": Figure(
        "DCI disentanglement",
        "How far each code is of use for one factor only, when trees predict factors from all codes. 1 is best.",
        group="Disentanglement",
    ),
    r"disentanglement/completeness": Figure(
        "DCI completeness",
        "How far each factor is predicted by one code only, by the same trees. 1 is best.",
        group="Disentanglement",
    ),
    r"disentanglement/informativeness": Figure(
        "DCI informativeness",
        "How often these trees name a factor's value right, on points that they have not seen.",
        percent=True,
        group="Factors read from all codes",
    ),
    r"disentanglement/explicitness": Figure(
        "Explicitness",
        "How well logistic regression reads a factor from all codes: area under the curve, on points that it has not "
        "seen. 0.5 is chance, 1 is best.",
    ),
    r"disentanglement/irs": Figure(
        "Robustness",
        "How little a code moves while the factor that it belongs to is held (IRS). 1 is best.",
        group="Disentanglement",
    ),
    r"disentanglement/factor_vae": Figure(
        "FactorVAE score",
        "How often the code that moves least tells which factor was held, on draws of its own. Higher is better.",
        percent=True,
        group="Factor that was held",
    ),
    r"disentanglement/active": Figure(
        "Active codes", "How many codes vary enough to take part in the FactorVAE score."
    ),
    r"disentanglement/beta_vae": Figure(
        "BetaVAE score",
        "How often differences of codes tell which factor was held, by logistic regression. Higher is better.",
        percent=True,
        group="Factor that was held",
    ),
    r"disentanglement/total_correlation": Figure(
        "Total correlation",
        "Of the normal distribution with the codes' covariance, in nats: 0 where they are uncorrelated. "
        "Lower is better.",
    ),
    r"disentanglement/wasserstein": Figure(
        "Distance from no correlation",
        "Squared Wasserstein distance of that distribution from one without correlations. Lower is better.",
    ),
    r"disentanglement/wasserstein_normalised": Figure(
        "Distance from no correlation, normalised", "The same in units of the codes' variance. Lower is better."
    ),
    r"disentanglement/mutual_information": Figure(
        "Mutual information of codes",
        "Mean over pairs of codes, in nats: 0 where none tells of another. Lower is better.",
    ),
    r"local_mig/(.+)": Figure(
        "Local mutual information gap, radius {0}",
        "The mutual information gap of neighbourhoods that reach over a share {0} of each factor's range to either "
        "side, mean over their centres. 1 is best.",
        group="Local mutual information gap",
    ),
    r"local_modularity/(.+)": Figure(
        "Local modularity, radius {0}",
        "Modularity of the same neighbourhoods. 1 is best; factors with few values, which stay in place, raise it.",
        group="Local modularity",
    ),
}
"""Pattern of a name -> what it is."""
