"""Where networks come from: modules, functions, torchvision, timm, files."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from iin.files import data_folders
from iin.models.representation.exported import Exported
from iin.models.representation.names import nearest
from iin.models.representation.reading import Function

__all__ = ["lacking", "load", "mistakes", "preprocessing"]

SCRIPTS = (".pt", ".ts", ".pth", ".torchscript", ".jit")
"""Endings of TorchScript files."""

RANDOM = (None, "random")


def load(
    model: nn.Module | str | Callable[..., Any],
    weights: str | None = None,
    checkpoint: str | Path | None = None,
    download: bool = False,
) -> nn.Module:
    """Make a module of whatever stands for a network.

    Nothing is fetched unless ``download`` says so. A file of TorchScript or ``torch.export`` is a program, not only
    weights: load those of people you trust. State dicts are read as tensors alone, and run nothing.

    Args:
        model: a module; a function of images; ``torchvision:NAME``; ``timm:NAME``, with timm installed; or the path of
            a file of TorchScript (``.pt``, ``.ts``) or of ``torch.export`` (``.pt2``).
        weights: of a model from torchvision or timm: ``DEFAULT``, a name such as ``IMAGENET1K_V1``, or timm's tag;
            ``random`` or None for untrained ones (None says so in a warning).
        checkpoint: path of a state dict, bare or under ``model`` or ``state_dict``, of names with or without
            ``module.`` in front. A relative one is looked for in the current folder, and where data are. A model from
            torchvision or timm gets as many classes as its last layer has there; its names may have ``model.`` in
            front too, as the published classifiers have.
        download: whether ``weights`` that are not on this machine may be fetched.

    Returns:
        The module, in eval mode if it was made here.

    Raises:
        ValueError: there is no such model or file, or weights do not fit it.
    """
    for mistake in mistakes(model, weights, checkpoint) if isinstance(model, str) else ():
        raise ValueError(mistake)
    for line in lacking(model, weights, checkpoint, download):
        raise ValueError(line)
    state = None if checkpoint is None else _state(_place(checkpoint))
    if isinstance(model, str):
        kind, _, name = model.partition(":")
        if kind == "torchvision":
            made = _torchvision(name, weights, state, download)
        elif kind == "timm":
            made = _timm(name, weights, state, download)
        else:
            return _file(Path(model))
        if weights is None and state is None:
            warnings.warn(
                f"{model} has random weights; weights: DEFAULT takes trained ones, weights: random says it is meant",
                stacklevel=3,
            )
        network = made.eval()
    elif isinstance(model, (torch.export.ExportedProgram, fx.GraphModule)) and _is_exported(model):
        network = Exported(model)
    elif isinstance(model, nn.Module):
        network = model
    elif isinstance(model, type):
        raise ValueError(f"model: expected a module, found the class {model.__name__}: make one of it")
    elif callable(model):
        network = Function(model)
    else:
        raise ValueError(f"expected a module, a function of images or text, found a {type(model).__name__}")
    if state is not None and not isinstance(model, str):  # a model by name has been made with it
        _fill(network, state, str(checkpoint))
    return network


def lacking(
    model: Any, weights: str | None = None, checkpoint: str | Path | None = None, download: bool = False
) -> Iterator[str]:
    """Which weights are not on this machine, and where they go; arguments as of `load`, in which nothing is wrong."""
    if checkpoint is not None and not _place(checkpoint).is_file():
        where = "" if Path(checkpoint).is_absolute() else f"; put it into {data_folders()[0]} or the current folder"
        yield f"checkpoint: there is no file {checkpoint}{where}"
    if isinstance(model, str) and weights not in RANDOM and not download and checkpoint is None:
        kind, _, name = model.partition(":")
        if kind == "torchvision":
            found, path = _torchvision_file(name, str(weights))
            if not path.is_file():
                yield (
                    f"weights: {found} of {model} are not on this machine: expected {path}, which is {found.url}; "
                    "put it there, or give download: true"
                )
        elif kind == "timm":
            full, config = _timm_config(name, str(weights))
            file, place = _timm_file(config)
            if file is None:
                yield (
                    f"weights: those of timm:{full} are not on this machine: expected {place}; put them there, or "
                    "give download: true"
                )


def _place(checkpoint: str | Path) -> Path:
    """Where a file of weights is, or else would be."""
    places = [folder / Path(checkpoint).expanduser() for folder in (Path(), *data_folders())]
    return next((place for place in places if place.is_file()), places[0])


def is_named(model: Any) -> bool:
    """Whether something is a text that names a model of torchvision or timm."""
    return isinstance(model, str) and model.partition(":")[0] in ("torchvision", "timm")


def is_spelt(model: str) -> bool:
    """Whether a text stands for a network by itself: a model's name, or a file's."""
    return is_named(model) or Path(model).suffix in (*SCRIPTS, ".pt2")


def mistakes(model: str, weights: str | None = None, checkpoint: str | Path | None = None) -> Iterator[str]:
    """What is wrong with a text that is to stand for a network, as far as it shows without making it."""
    kind, _, name = model.partition(":")
    if kind == "torchvision":
        from torchvision.models import get_model_weights, list_models

        if name not in list_models():
            yield f"model: torchvision has no {name!r}; {nearest(name, list_models())}"
        elif weights not in (*RANDOM, "DEFAULT") and weights not in get_model_weights(name).__members__:
            yield f"weights: {model} has no {weights!r}; there are: DEFAULT, random, " + ", ".join(
                get_model_weights(name).__members__
            )
    elif kind == "timm":
        if importlib.util.find_spec("timm") is None:
            yield f"model: {model} needs timm, which is not installed: pip install 'iin[timm]'"
            return
        import timm

        bare, _, tag = name.partition(".")
        if not timm.is_model(bare):
            yield f"model: timm has no {bare!r}; {nearest(bare, timm.list_models())}"
            return
        tags = timm.list_pretrained(f"{bare}.*")
        known = [each.partition(".")[2] for each in tags]
        wanted = weights if weights not in (*RANDOM, "DEFAULT") else tag or None
        if wanted is not None and wanted not in known:
            yield f"weights: timm:{bare} has no {wanted!r}; there are: DEFAULT, random, {', '.join(known)}"
    elif not Path(model).suffix:
        yield (
            f"model: expected torchvision:NAME, timm:NAME, a file of TorchScript (.pt) or torch.export (.pt2), or a "
            f"mapping with target, found {model!r}"
        )
    elif Path(model).suffix not in (*SCRIPTS, ".pt2"):
        yield f"model: {model} ends in none of {', '.join((*SCRIPTS, '.pt2'))}"
    elif not Path(model).is_file():
        yield f"model: there is no file {model}"
    elif weights is not None or checkpoint is not None:
        yield f"model: {model} holds its own weights; leave out {'weights' if weights is not None else 'checkpoint'}"
    if kind in ("torchvision", "timm") and checkpoint is not None and weights is not None:
        yield "weights: give weights or checkpoint, not both"


def preprocessing(model: Any, network: nn.Module, weights: str | None) -> dict[str, Any]:
    """Arguments of `Preprocess` for what the weights of torchvision or timm were trained on.

    For untrained weights these are the transforms of the default ones.

    Raises:
        ValueError: neither says what it asks for.
    """
    kind, _, name = model.partition(":") if isinstance(model, str) else ("", "", "")
    if kind == "torchvision":
        from torchvision.models import get_model_weights

        found: Any = get_model_weights(name)["DEFAULT" if weights in RANDOM else str(weights)].transforms()
        if not hasattr(found, "crop_size"):
            raise ValueError(f"preprocess: the weights of {model} say nothing of a size; give a mapping")
        (crop,), (resize,) = found.crop_size, found.resize_size
        return {
            "size": crop,
            "resize": resize,
            "mean": list(found.mean),
            "std": list(found.std),
            "antialias": True,
            "interpolation": found.interpolation.value,
            "channels": 3,
        }
    if kind == "timm":
        from timm.data import resolve_model_data_config

        config = resolve_model_data_config(network)
        channels, height, width = config["input_size"]
        resize = {"resize": int(height / config["crop_pct"])} if config["crop_mode"] == "center" else {}
        return {
            "size": [height, width],
            **resize,
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "antialias": True,
            "interpolation": config["interpolation"],
            **({"channels": channels} if channels in (1, 3) else {}),
        }
    raise ValueError("preprocess: weights is for models of torchvision: and timm: only; expected imagenet or a mapping")


# --- torchvision and timm --------------------------------------------------------------------------------------------


def _torchvision(name: str, weights: str | None, state: Mapping[str, Tensor] | None, download: bool) -> nn.Module:
    from torchvision.models import get_model, get_model_builder

    # Models for detection and segmentation would fetch the weights of what they are built on.
    backbone = {"weights_backbone"} & inspect.signature(get_model_builder(name)).parameters.keys()

    def untrained(**classes: int) -> nn.Module:
        return get_model(name, weights=None, **dict.fromkeys(backbone), **classes)

    if state is not None:
        return _with_state(untrained, state, f"torchvision:{name}")
    if weights in RANDOM:
        return untrained()
    found, path = _torchvision_file(name, str(weights))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetched(found, lambda: torch.hub.download_url_to_file(found.url, str(path), _prefix(path), progress=False))
    _state(path)  # refuses what is no state dict before torchvision unpickles it
    return get_model(name, weights=found)


def _torchvision_file(name: str, weights: str) -> tuple[Any, Path]:
    """Weights of torchvision, and the file that they are kept in."""
    from torchvision.models import get_model_weights

    found: Any = get_model_weights(name)[weights]
    return found, Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(found.url)


def _prefix(path: Path) -> str | None:
    """The first digits of a file's digest, which torch puts at the end of its name."""
    digits = path.stem.rpartition("-")[2]
    return digits if len(digits) >= 8 and all(c in "0123456789abcdef" for c in digits) else None


def _timm(name: str, weights: str | None, state: Mapping[str, Tensor] | None, download: bool) -> nn.Module:
    import timm

    if state is not None:
        return _with_state(lambda **classes: timm.create_model(name, **classes), state, f"timm:{name}")
    if weights in RANDOM:
        return timm.create_model(name)
    full, config = _timm_config(name, str(weights))
    found, _ = _timm_file(config)
    if found is None:
        return _fetched(full, lambda: timm.create_model(full, pretrained=True))
    overlay = {"file": str(found), **({} if found.suffix == ".npz" else {"custom_load": False})}
    return timm.create_model(full, pretrained=True, pretrained_cfg_overlay=overlay)


def _timm_config(name: str, weights: str) -> tuple[str, Any]:
    """The whole name of timm's weights, and what timm knows of them."""
    import timm

    full = name if weights == "DEFAULT" else f"{name.partition('.')[0]}.{weights}"
    return full, timm.models.get_pretrained_cfg(full)


def _timm_file(config: Any) -> tuple[Path | None, str]:
    """The file of timm's weights, if it is here; and where it is looked for."""
    places = []
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.constants import HF_HUB_CACHE

        for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
            found = try_to_load_from_cache(config.hf_hub_id, file) if file else None
            if isinstance(found, str):
                return Path(found), found
        places.append(f"{config.hf_hub_id} in the cache {HF_HUB_CACHE}")
    if config.url:
        path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(config.url)
        if path.is_file():
            return path, str(path)
        places.append(f"{path}, which is {config.url}")
    return None, " or ".join(places) or "a file that timm does not name"


def _fetched(what: Any, fetch: Callable[[], Any]) -> Any:
    try:
        return fetch()
    except Exception as error:  # whatever a connection, or the library that holds it, may raise
        raise ValueError(f"weights: downloading {what} failed: {' '.join(str(error).split())[:200]}") from error


# --- files -----------------------------------------------------------------------------------------------------------


def _file(path: Path) -> nn.Module:
    if path.suffix == ".pt2":
        log = logging.getLogger("torch.export")
        level = log.level
        log.setLevel(logging.CRITICAL)  # it would print a traceback beside raising an error
        try:
            with torch.device("cpu"):  # even if all else is built without memory, for a rehearsal
                return Exported(torch.export.load(path))
        except Exception as error:  # zip, JSON and torch's own, whatever is wrong with a file
            raise ValueError(f"{path}: not a file of torch.export ({_short(error)})") from error
        finally:
            log.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would rather have files of torch.export
            return torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        raise ValueError(
            f"{path}: not a file of TorchScript; a state dict goes to checkpoint, beside the model that it is of"
        ) from error


def _state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file of tensors."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling and zip errors of all kinds
        raise ValueError(f"{path}: cannot be read as a file of tensors ({_short(error)})") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: no state dict; expected names and tensors, bare or under model or state_dict")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _with_state(make: Callable[..., nn.Module], state: Mapping[str, Tensor], name: str) -> nn.Module:
    """A model of as many classes as a state dict has, filled with it."""
    with torch.device("meta"):
        ours = make().state_dict()
    if all(key.startswith("model.") for key in state) and not any(key.startswith("model.") for key in ours):
        state = {key.removeprefix("model."): value for key, value in state.items()}
    heads = {len(state[key]) for key in ours.keys() & state.keys() if ours[key].shape != state[key].shape}
    try:
        model = make(num_classes=heads.pop()) if len(heads) == 1 else make()
    except TypeError:  # not a classifier
        model = make()
    _fill(model, state, name)
    return model


def _fill(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    ours = {key: tensor.shape for key, tensor in model.state_dict().items()}
    wrong = [f"{key} is missing" for key in ours.keys() - state.keys() if not key.endswith("num_batches_tracked")]
    wrong += [f"{key} is not expected" for key in state.keys() - ours.keys()]
    wrong += [
        f"{key} is {list(state[key].shape)}, expected {list(ours[key])}"
        for key in ours.keys() & state.keys()
        if ours[key] != state[key].shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"checkpoint: does not fit {name}: {'; '.join(sorted(wrong)[:3])}{more}")
    model.load_state_dict(state, strict=False)  # strict but for the counts that old batch norms do not have


def _is_exported(model: Any) -> bool:
    if isinstance(model, fx.GraphModule):
        # Graphs of torch.fx alone call modules, and are read like other modules.
        nodes = [node for node in model.graph.nodes if node.target != "_guards_fn"]
        called = any(node.op == "call_module" for node in nodes)
        return not called and any("nn_module_stack" in node.meta for node in nodes)
    return True


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
