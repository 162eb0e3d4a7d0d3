"""What a style file says about itself: written from a run's settings, sorted by whom it concerns,
left out on request. Pure text.

No paths, no captions, no names of people or folders unless somebody asked for them. ModelSpec 1.0.1
and the ss_ keys of sd-scripts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PureWindowsPath
from typing import Any, Literal, NamedTuple

from training.config.places import PATHS
from training.config.schema import RunConfig
from training.config.training_sections import Adapter, Optim
from training.errors import StyleFileError
from training.style_files.base_family import family_in
from training.style_files.family_spec import SPECS
from training.style_files.lora import Change, Kron, Lora

LYCORIS = "lycoris.kohya"  # the module of sd-scripts that makes LoKr
# Group of metadata -> what it tells, and the keys in it (patterns over the whole key)
GROUPS = {
    "kind": (
        "which base and method it is for; other programs need it",
        r"modelspec\.(sai_model_spec|architecture|implementation|resolution|prediction_type|encoder_layer)"
        r"|ss_(base_model_version|v2|network_\w+|resolution|clip_skip|max_token_length)|style_studio\.(format|default_weight)",
    ),
    "words": (
        "title, trigger, description, licence",
        r"modelspec\.(license|title|description|usage_hint|trigger_phrase|tags)|ss_output_name|modelspec\.merged_from",
    ),
    "author": ("who made it", r"modelspec\.author"),
    "dates": (
        "when it was made",
        r"modelspec\.date|ss_training_(started|finished)_at|ss_session_id",
    ),
    "base": ("the name and hash of the base", r"ss_(new_)?(sd_model|vae)_(name|hash)"),
    "program": (
        "the program that made it",
        r"modelspec\.implementation_version|ss_sd_scripts_commit_hash",
    ),
    "recipe": ("every setting of the training", r"style_studio\.recipe"),
    "pictures": (
        "captions, folder names and pictures",
        r"ss_(tag_frequency|dataset_dirs|reg_dataset_dirs|datasets|bucket_info|training_comment)|ssmd_\w+|modelspec\.(thumbnail|preprocessor)",
    ),
    "training": ("single settings of the training", r"ss_\w+"),
    "hashes": (
        "hashes of the weights, which are always computed anew",
        r"sshs_\w+|modelspec\.hash_sha256",
    ),
    "other": ("what this program does not know", r".*"),
}
PUBLIC = (
    "kind",
    "words",
    "author",
    "dates",
    "base",
    "program",
    "recipe",
    "training",
)  # carried over into a file that is rewritten
ANONYMOUS = ("kind", "words")  # what is left after scrubbing


# "" is left out: of flows ModelSpec knows nothing
MODELSPEC_PREDICTION = {"epsilon": "epsilon", "v_prediction": "v", "flow": ""}


@dataclass(frozen=True)
class Made:
    """How a style was made, as far as the settings do not say it."""

    family: str  # a name in SPECS
    base_name: str
    base_hash: str  # sha256 of the base's weights, "" when it has none
    prediction: Literal["epsilon", "v_prediction", "flow"]
    resolution: int  # px
    steps: int  # updates done
    pictures: int
    started: float  # seconds since 1970
    finished: float
    version: str  # of this program
    checkpointing: bool = False  # whether activations were computed again in the backward pass


class MetadataField(NamedTuple):
    """One field of a file's metadata, and the group it is in."""

    group: str
    key: str
    value: str


def metadata_for(config: RunConfig, made: Made, leave_out: Collection[str] = ()) -> dict[str, str]:
    """What a style says about itself.

    leave_out: groups (see GROUPS) or keys that are not to be published; kind always is.
    """
    found = _modelspec(config, made) | _kohya_metadata(config, made)
    found |= {
        "ss_sd_model_name": model_name(made.base_name),
        "ss_new_sd_model_hash": made.base_hash,
        "ss_steps": str(made.steps),
        "ss_num_train_images": str(made.pictures),
        "ss_training_started_at": str(float(made.started)),
        "ss_training_finished_at": str(float(made.finished)),
        "style_studio.format": "1",
        "style_studio.default_weight": "1.0",
        "style_studio.recipe": json.dumps(_recipe(config), ensure_ascii=False, sort_keys=True),
    }
    return without({key: value for key, value in found.items() if value}, leave_out)


def published(metadata: Mapping[str, str]) -> list[MetadataField]:
    """Everything that a file tells whoever gets it, sorted by group."""
    order = list(GROUPS)
    fields = [MetadataField(group_of(key), key, value) for key, value in metadata.items()]
    return sorted(fields, key=lambda one: (order.index(one.group), one.key))


def group_of(key: str) -> str:
    return next(
        group for group, (_, pattern) in GROUPS.items() if re.fullmatch(pattern, key, re.DOTALL)
    )


def without(metadata: Mapping[str, str], leave_out: Collection[str]) -> dict[str, str]:
    """The metadata less some groups or keys; what other programs need to load the file stays.

    Raises StyleFileError for an unknown group.
    """
    for word in leave_out:
        if word not in GROUPS and word not in metadata and not re.search(r"[._]", word):
            raise StyleFileError(
                f"{word!r} is neither a group nor a key of the metadata. Groups: "
                f"{', '.join(GROUPS)}."
            )
    return {
        key: value
        for key, value in metadata.items()
        if group_of(key) == "kind" or not {key, group_of(key)} & set(leave_out)
    }


def public(metadata: Mapping[str, str], groups: Iterable[str] = PUBLIC) -> dict[str, str]:
    """What a rewritten file may carry on: those groups, and of a path its last name only."""
    chosen = set(groups)
    if unknown := sorted(chosen - set(GROUPS)):
        raise StyleFileError(
            f"{unknown[0]!r} is no group of the metadata. Groups: {', '.join(GROUPS)}."
        )
    kept = {key: value for key, value in metadata.items() if group_of(key) in chosen}
    return {
        key: model_name(value) if key.endswith(("model_name", "vae_name")) else value
        for key, value in kept.items()
    }


def rewritten(
    metadata: Mapping[str, str], family: str, changes: Collection[Change]
) -> dict[str, str]:
    """What a file that was converted, mixed or cut says about itself:

    its public metadata, with the kind of base and the ranks that it has now.
    """
    found = public(metadata)
    if family_in(found) != family or not found.get("ss_base_model_version"):
        prediction = "v_prediction" if found.get("modelspec.prediction_type") == "v" else "epsilon"
        found |= _kind(family, prediction)
    loras = [change for change in changes if isinstance(change, Lora)]
    if len(loras) < len(changes):
        is_lokr = any(isinstance(change, Kron) for change in changes)
        algorithm = {"algo": "lokr", "full_matrix": "True"} if is_lokr else {"algo": "loha"}
        arguments = json.dumps(algorithm)
        sizes = ("ss_network_dim", "ss_network_alpha")
        found = {key: value for key, value in found.items() if key not in sizes}
        return found | {"ss_network_module": LYCORIS, "ss_network_args": arguments}
    if found.get("ss_network_module") == LYCORIS:
        found.pop("ss_network_args", None)
    return found | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": _one({lora.rank for lora in loras}),
        "ss_network_alpha": _one({lora.alpha for lora in loras}),
    }


def read_as(metadata: Mapping[str, str]) -> tuple[int, int]:
    """How captions were read when a style was made, as other programs write it, too: the layer of
    the text encoder from the end (0: the base's own, or it is not said), and how many pieces of 75
    tokens a caption could have (1 to 3).
    """
    skip = _whole_number(
        metadata.get("ss_clip_skip", "") or metadata.get("modelspec.encoder_layer", "")
    )
    length = _whole_number(metadata.get("ss_max_token_length", ""))
    return skip if skip > 1 else 0, min(max(length // 75, 1), 3)


def _whole_number(said: str) -> int:
    """0 for what is no number of at most three digits."""
    found = re.fullmatch(r"\s*(\d{1,3})(?:\.0+)?\s*", said)
    return int(found[1]) if found else 0


def _one(values: Collection[float]) -> str:
    """The one value, or sd-scripts' word for mixed ones."""
    return str(next(iter(values))) if len(set(values)) == 1 else "Dynamic"


def _kind(family: str, prediction: str) -> dict[str, str]:
    """The keys by which other programs tell the base."""
    spec, v = SPECS[family], prediction == "v_prediction"
    architecture = spec.architecture_v if v and spec.architecture_v else spec.architecture
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": spec.implementation,
        "ss_base_model_version": spec.version_v if v and spec.version_v else spec.version,
        "ss_v2": str(spec.is_v2),
    }


def _modelspec(config: RunConfig, made: Made) -> dict[str, str]:
    first = next(iter(config.data.triggers), "")
    template = next(
        (one.template for one in config.data.folders if one.trigger == first and one.template),
        config.data.template,
    )
    usage = template.format(caption="what to draw", trigger=first) if first else "what to draw"
    return {
        **_kind(made.family, made.prediction),
        "modelspec.implementation_version": f"style-studio/{made.version}",
        "modelspec.title": config.save.name,
        "modelspec.description": "A style, made with Style Studio.",
        "modelspec.resolution": f"{made.resolution}x{made.resolution}",
        "modelspec.date": datetime.fromtimestamp(made.finished, UTC).isoformat(timespec="seconds"),
        "modelspec.author": config.save.author,
        "modelspec.license": config.save.licence,
        "modelspec.tags": "style",
        "modelspec.trigger_phrase": ", ".join(config.data.triggers),
        "modelspec.usage_hint": f"Prompt: {usage}",
        "modelspec.encoder_layer": str(config.base.clip_skip or ""),
        "modelspec.prediction_type": MODELSPEC_PREDICTION[made.prediction],
    }


def _kohya_metadata(config: RunConfig, made: Made) -> dict[str, str]:
    optim = config.optim
    return {
        **_network_metadata(config.adapter),
        "ss_output_name": config.save.name,
        "ss_resolution": f"({made.resolution}, {made.resolution})",
        "ss_learning_rate": str(optim.unet_lr),
        "ss_unet_lr": str(optim.unet_lr),
        "ss_text_encoder_lr": str(optim.text_encoder_lr),
        "ss_optimizer": {"adamw": "AdamW", "other": optim.other}.get(optim.method, optim.method),
        "ss_lr_scheduler": optim.schedule,
        "ss_max_train_steps": str(optim.steps),
        "ss_batch_size_per_device": str(optim.batch_size),
        "ss_total_batch_size": str(optim.batch_size),
        "ss_gradient_accumulation_steps": str(optim.accumulate),
        "ss_gradient_checkpointing": str(made.checkpointing),
        "ss_max_grad_norm": str(optim.clip),
        **_loss_metadata(optim),
        **_weight_metadata(optim),
        "ss_noise_offset": str(optim.noise_offset or None),
        "ss_caption_dropout_rate": str(config.data.caption_dropout),
        "ss_num_reg_images": str(config.prior.images),
        "ss_prior_loss_weight": str(config.prior.weight),
        "ss_seed": str(optim.seed),
        "ss_clip_skip": str(config.base.clip_skip or None),
        "ss_max_token_length": {2: "150", 3: "225"}.get(config.base.text_pieces, ""),
        "ss_mixed_precision": {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}.get(
            config.base.dtype, ""
        ),
    }


def _network_metadata(adapter: Adapter) -> dict[str, str]:
    """The method as sd-scripts calls it."""
    if adapter.method == "lokr":
        factor = str(adapter.factor or -1)
        arguments = {"algo": "lokr", "full_matrix": "True", "factor": factor}
        return {"ss_network_module": LYCORIS, "ss_network_args": json.dumps(arguments)}
    rank, alpha = str(adapter.rank), str(adapter.file_alpha(adapter.rank))
    arguments = {"algo": adapter.method} if adapter.method != "lora" else {}
    if "convolutions" in adapter.targets:
        arguments |= {"conv_dim": rank, "conv_alpha": alpha}
    return {
        "ss_network_module": LYCORIS if adapter.method != "lora" else "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
        "ss_network_args": json.dumps(arguments),
    }


def _weight_metadata(optim: Optim) -> dict[str, str]:
    """How timesteps count, and coarser noise, as sd-scripts calls them."""
    debiased = optim.weighting == "debiased"
    found = {"ss_min_snr_gamma": str(None if debiased else optim.min_snr or None)}
    found |= {"ss_debiased_estimation": "True"} if debiased else {}
    if optim.multires:
        found["ss_multires_noise_discount"] = str(optim.multires)
        found["ss_multires_noise_iterations"] = str(optim.multires_levels)
    return found


def _loss_metadata(optim: Optim) -> dict[str, str]:
    """The loss as sd-scripts calls it, where it is not the square."""
    if optim.loss == "mse":
        return {}
    return {"ss_loss_type": optim.loss, "ss_huber_c": str(optim.huber)}


def _recipe(config: RunConfig) -> dict[str, Any]:
    """The settings without what is nobody else's business:

    folders and preview prompts stay at home.
    """
    found = config.model_dump(mode="json")
    for key in PATHS:
        section, name = key.split(".")
        del found[section][name]
    found["base"]["model"] = model_name(config.base.model)
    for table in found["data"]["folders"]:
        del table["folder"]
    del found["preview"]["prompts"], found["preview"]["negative"], found["save"]["author"]
    del found["save"]["webhook"], found["save"]["notify"]
    del found["report"]["prompts"]
    return found


def model_name(model: str) -> str:
    """The last part of a path; a hub id (`owner/name`) is no path and stays."""
    return (
        model
        if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model)
        else _last_name(model)
    )


def _last_name(path: str) -> str:
    return PureWindowsPath(path).name  # knows / and \ alike
